use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use http::Response;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    exposition::{Format, adopt},
    fetch::Url,
    *,
};

fn error(probes: serde_json::Value) -> String {
    App::read(Some(&probes.to_string()), None, None).unwrap_err()
}

#[test]
fn what_is_told_wrongly_is_named() {
    let live = "/app-health/a/livez";
    for (probes, said) in [
        (json!([]), "OUTRIGGER_APP_PROBES: invalid type: sequence"),
        (
            json!({live: {"httpGet": {"port": 0}}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/livez.httpGet.port: invalid value",
        ),
        (
            json!({live: {"httpGet": {"port": 80, "paht": "/"}}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/livez.httpGet.paht: unknown field",
        ),
        (
            json!({live: {"httpGet": {"port": 80, "scheme": "http"}}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/livez.httpGet.scheme: unknown variant",
        ),
        (
            json!({live: {"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/livez.httpGet.httpHeaders: \"a b\": invalid HTTP",
        ),
        (
            json!({live: {"httpGet": {"port": 80}, "tcpSocket": {"port": 80}}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/livez: exactly one of",
        ),
        (
            json!({live: {"timeoutSeconds": 1}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/livez: exactly one of",
        ),
        (
            json!({"/app-health/a/live": {"tcpSocket": {"port": 80}}}),
            "OUTRIGGER_APP_PROBES: /app-health/a/live: neither",
        ),
        (
            json!({"/app-health//livez": {"tcpSocket": {"port": 80}}}),
            "OUTRIGGER_APP_PROBES: /app-health//livez: neither",
        ),
    ] {
        let error = error(probes);
        assert!(error.starts_with(said), "{error}\n{said}");
    }
    let metrics = |text: &str| App::read(None, Some(text), None).unwrap_err();
    assert!(metrics("{").starts_with("OUTRIGGER_APP_METRICS: EOF"));
    assert_eq!(
        metrics(r#"{"port": 1, "scheme": "ftp"}"#),
        "OUTRIGGER_APP_METRICS: scheme: `ftp` is neither http nor https"
    );
    assert!(metrics(r#"{"port": 1} {}"#).starts_with("OUTRIGGER_APP_METRICS: trailing characters"));
}

#[test]
fn nothing_told_is_nothing_asked() {
    let app = App::read(None, None, None).unwrap();
    assert!(app.probes.is_empty() && app.metrics.is_none());
}

#[test]
fn the_pod_is_called_what_the_asker_calls_it() {
    for (host, name) in [
        ("10.0.0.7:15021", "10.0.0.7"),
        ("[fd00::7]:15021", "[fd00::7]"),
        ("[fd00::7]", "[fd00::7]"),
        ("web.local", "web.local"),
        ("a b", "localhost"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        let asked = Asked(&headers);
        assert_eq!(asked.host(), name);
        assert_eq!(asked.authority(80), format!("{name}:80"));
    }
    assert_eq!(Asked(&HeaderMap::new()).host(), "localhost");
}

#[test]
fn paths_are_made_fit_for_the_wire() {
    for (path, sent) in [
        ("/healthz?full=1&a=b", "/healthz?full=1&a=b"),
        ("healthz", "/healthz"),
        ("", "/"),
        ("/a b#c", "/a%20b"),
        ("/ä%20", "/%C3%A4%20"),
    ] {
        assert_eq!(fetch::path(path).unwrap(), sent);
    }
}

#[test]
fn redirects_are_resolved() {
    let url = |is_tls, host: &str, port, path: &str| Url {
        is_tls,
        host: host.to_owned(),
        port,
        path: path.parse().unwrap(),
    };
    let from = url(false, "10.0.0.7", 8080, "/a/b?c");
    for (location, to) in [
        (
            "/x?y=http://z",
            Some((url(false, "10.0.0.7", 8080, "/x?y=http://z"), false)),
        ),
        ("x", Some((url(false, "10.0.0.7", 8080, "/a/x"), false))),
        ("?x", Some((url(false, "10.0.0.7", 8080, "/a/b?x"), false))),
        (
            "https://10.0.0.7/x",
            Some((url(true, "10.0.0.7", 443, "/x"), true)),
        ),
        (
            "HTTP://other:81",
            Some((url(false, "other", 81, "/"), true)),
        ),
        ("//other/x#y", Some((url(false, "other", 80, "/x"), true))),
        ("ftp://other/x", None),
        ("http://a b/", None),
    ] {
        assert_eq!(from.resolve(location), to, "{location}");
    }
}

const OWN: &str = "# TYPE envoy_up gauge\nenvoy_up{} 1\n# TYPE envoy_time histogram\n";

#[test]
fn plain_text_stays_as_it_is() {
    let text = "# HELP a What it is.\n# TYPE a counter\na_total{b=\"}\\\"#\",c=\"\"} 1e+06 1700000000000\n\
                # a word\na_bucket{le=\"+Inf\"} +Inf\nb NaN\n";
    let adopted = adopt(text, Format::Text, OWN).unwrap();
    assert_eq!(adopted.text, text);
    assert!(adopted.left_out.is_empty());
}

#[test]
fn an_end_of_openmetrics_does_not_end_the_whole() {
    let text = "# TYPE a counter\n# UNIT a seconds\na_total{b=\"c\"} 1 1700000000.5 # {trace_id=\"x\"} 0.5 1\n\
                # TYPE b info\nb_info{v=\"1\"} 1\n# TYPE c unknown\nc 1\n# EOF\n";
    let plain = "# TYPE a_total counter\n# UNIT a seconds\na_total{b=\"c\"} 1 1700000000500\n\
                 # TYPE b gauge\nb_info{v=\"1\"} 1\n# TYPE c untyped\nc 1\n";
    let adopted = adopt(text, Format::OpenMetrics, OWN).unwrap();
    assert_eq!(adopted.text, plain);
    assert_eq!(
        adopt("a 1\n# EOF\n", Format::Text, OWN).unwrap().text,
        "a 1\n"
    );
}

#[test]
fn families_that_both_have_are_the_proxys() {
    let text = "# HELP envoy_up x\n# TYPE envoy_up gauge\nenvoy_up 3\nenvoy_up_count 1\n\
                # TYPE envoy_time histogram\nenvoy_time_bucket{le=\"1\"} 1\nenvoy_time_sum 1\nmine 1\n";
    let adopted = adopt(text, Format::Text, OWN).unwrap();
    assert_eq!(adopted.left_out, ["envoy_time", "envoy_up"]);
    // Of a family that is left out nothing is kept.
    assert_eq!(adopted.text, "mine 1\n");
}

#[test]
fn what_is_no_exposition_is_refused() {
    for (text, said) in [
        ("a 1\n<html>\n", "line 2: no metric's name"),
        ("a-b 1\n", "line 1: no metric's name"),
        ("1a 1\n", "line 1: no metric's name"),
        ("a\n", "line 1: no value"),
        ("a{b=\"c} 1\n", "line 1: labels without an end"),
        ("a{b=\"c\"}\n", "line 1: no value"),
        ("a one\n", "line 1: `one` is no value"),
        ("a 1 x\n", "line 1: `x` is no timestamp"),
        ("a 1 2 3\n", "line 1: `3` behind a sample"),
        ("# TYPE a\n", "line 1: `` is no type"),
        ("# TYPE a info\n", "line 1: `info` is no type"),
        ("# TYPE a counter x\n", "line 1: `x` behind a type"),
        ("# HELP a-b x\n", "line 1: HELP of no metric"),
    ] {
        assert_eq!(adopt(text, Format::Text, OWN).unwrap_err(), said, "{text}");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// An application that gives these answers, one for each connection; it gives back what it was asked.
async fn application(
    answers: &'static [&'static str],
) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            asked.push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (port, task)
}

async fn ask(probe: serde_json::Value, page: &str) -> (u16, String) {
    let probes = json!({page: probe}).to_string();
    let app = App::read(Some(&probes), None, None).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("10.0.0.7:15021"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static("kube-probe/1.31"),
    );
    let reply = app.probe(&Method::GET, page, &headers).await.unwrap();
    (reply.status.as_u16(), reply.body)
}

const LIVE: &str = "/app-health/a/livez";

#[test]
fn an_http_probe_asks_as_the_kubelet_does() {
    block_on(async {
        let (port, asked) = application(&["HTTP/1.1 204 X\r\n\r\n"; 2]).await;
        let get = json!({"httpGet": {"path": "/z?a=1", "port": port}});
        assert_eq!(
            ask(get, LIVE).await,
            (200, "answered with 204\n".to_owned())
        );
        let headers = json!([
            {"name": "Host", "value": "shop.example"}, {"name": "X-A", "value": "1"},
            {"name": "x-a", "value": "2"}, {"name": "Accept", "value": ""},
        ]);
        let get = json!({"httpGet": {"port": port, "httpHeaders": headers}});
        assert_eq!(ask(get, LIVE).await.0, 200);
        let asked = asked.await.unwrap();
        assert_eq!(
            asked,
            [
                format!(
                    "GET /z?a=1 HTTP/1.1\r\naccept: */*\r\nuser-agent: kube-probe/1.31\r\n\
                     host: 10.0.0.7:{port}\r\nconnection: close\r\n\r\n"
                ),
                "GET / HTTP/1.1\r\nx-a: 1\r\nx-a: 2\r\nuser-agent: kube-probe/1.31\r\n\
                 host: shop.example\r\nconnection: close\r\n\r\n"
                    .to_owned(),
            ]
        );
    });
}

#[test]
fn statuses_and_redirects_count_as_for_the_kubelet() {
    block_on(async {
        for (answers, status, text) in [
            (&["HTTP/1.1 399 X\r\n\r\n"][..], 200, "answered with 399\n"),
            (
                &["HTTP/1.1 400 X\r\n\r\n"],
                503,
                "HTTP probe failed with statuscode: 400\n",
            ),
            (
                &[
                    "HTTP/1.1 302 X\r\nlocation: /next\r\n\r\n",
                    "HTTP/1.1 500 X\r\n\r\n",
                ],
                503,
                "HTTP probe failed with statuscode: 500\n",
            ),
            (
                &["HTTP/1.1 302 X\r\nlocation: https://other/next\r\n\r\n"],
                200,
                "answered with 302\n",
            ),
            (&["HTTP/1.1 302 X\r\n\r\n"], 200, "answered with 302\n"),
            (
                &["HTTP/1.1 302 X\r\nlocation: /\r\n\r\n"; 11],
                503,
                "stopped after 10 redirects\n",
            ),
            (
                &["HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nshort"],
                503,
                "error reading a body from connection: end of file before message length reached\n",
            ),
        ] {
            let (port, asked) = application(answers).await;
            let said = ask(json!({"httpGet": {"port": port}}), LIVE).await;
            assert_eq!(said, (status, text.to_owned()));
            asked.await.unwrap();
        }
    });
}

#[test]
fn a_hook_succeeds_with_any_answer() {
    block_on(async {
        let (port, asked) = application(&["HTTP/1.1 500 X\r\n\r\n"]).await;
        let hook = json!({"httpGet": {"port": port}});
        let said = ask(hook.clone(), "/app-lifecycle/a/prestopz").await;
        assert_eq!(said, (200, "answered with 500\n".to_owned()));
        asked.await.unwrap();
        // Nobody listens any more.
        let (status, text) = ask(hook, "/app-lifecycle/a/prestopz").await;
        assert_eq!(status, 503);
        assert!(text.starts_with("cannot connect: 127.0.0.1:"), "{text}");
    });
}

#[test]
fn probes_end_in_time() {
    block_on(async {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = json!({"tcpSocket": {"port": port}, "timeoutSeconds": null});
        let said = ask(tcp, LIVE).await;
        assert_eq!(said, (200, format!("port {port} takes connections\n")));
        // It is taken by the kernel, and never answered.
        let get = json!({"httpGet": {"port": port}, "timeoutSeconds": 1});
        let said = ask(get, LIVE).await;
        assert_eq!(said, (503, "no answer within 1s\n".to_owned()));
    });
}

/// `grpc.health.v1`: the status of the service `a`, or nothing of it.
async fn health(status: u8) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request.unwrap();
            let (parts, mut body) = request.into_parts();
            tokio::spawn(async move {
                let mut received = BytesMut::new();
                while let Some(data) = body.data().await {
                    received.extend_from_slice(&data.unwrap());
                }
                let is_asked = parts.uri.path() == "/grpc.health.v1.Health/Check"
                    && received[..] == *b"\0\0\0\0\x03\x0a\x01a";
                let mut response = Response::new(());
                let headers = response.headers_mut();
                headers.insert("content-type", HeaderValue::from_static("application/grpc"));
                if !is_asked {
                    headers.insert("grpc-status", HeaderValue::from_static("12"));
                    respond.send_response(response, true).unwrap();
                    return;
                }
                let mut stream = respond.send_response(response, false).unwrap();
                let mut message = BytesMut::new();
                message.put_slice(&[0, 0, 0, 0, 2, 8, status]);
                stream.send_data(message.freeze(), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                stream.send_trailers(trailers).unwrap();
            });
        }
    });
    port
}

#[test]
fn a_grpc_probe_wants_serving() {
    block_on(async {
        for (status, service, said) in [
            (1, "a", (200, "SERVING\n")),
            (
                2,
                "a",
                (503, "service unhealthy (responded with \"NOT_SERVING\")\n"),
            ),
            (
                1,
                "b",
                (
                    503,
                    "this server does not implement the grpc health protocol (grpc.health.v1.Health)\n",
                ),
            ),
        ] {
            let port = health(status).await;
            let grpc = json!({"grpc": {"port": port, "service": service}});
            assert_eq!(ask(grpc, LIVE).await, (said.0, said.1.to_owned()));
        }
    });
}

#[test]
fn metrics_are_the_proxys_and_then_the_applications() {
    block_on(async {
        let (port, asked) = application(&[
            "HTTP/1.1 200 X\r\ncontent-type: application/openmetrics-text; version=1.0.0\r\n\r\na 1\n# EOF\n",
            "HTTP/1.1 200 X\r\ncontent-type: text/html\r\n\r\n<html>",
            "HTTP/1.1 404 X\r\n\r\n",
        ])
        .await;
        let told = json!({"port": port, "path": "/m?x=1", "scheme": "http"}).to_string();
        let app = App::read(None, Some(&told), None).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(SCRAPE_TIMEOUT, HeaderValue::from_static("2"));
        let failures = |count: u32| {
            format!(
                "{OWN}# TYPE outrigger_app_metrics_scrape_failures_total counter\n\
                 outrigger_app_metrics_scrape_failures_total {count}\n\
                 # TYPE outrigger_app_metrics_families_left_out_total counter\n\
                 outrigger_app_metrics_families_left_out_total 0\n"
            )
        };
        let merged = app.merged(OWN.to_owned(), &headers).await;
        assert_eq!(merged.body, format!("{}a 1\n", failures(0)));
        assert!(merged.content_type.starts_with("text/plain; version=0.0.4"));
        for count in 1..=2 {
            let merged = app.merged(OWN.to_owned(), &headers).await;
            assert_eq!(merged.body, failures(count));
        }
        let asked = asked.await.unwrap();
        assert!(
            asked[0].starts_with("GET /m?x=1 HTTP/1.1\r\n"),
            "{}",
            asked[0]
        );
        assert!(asked[0].contains(&format!("host: localhost:{port}\r\n")));
        assert!(asked[0].contains("x-prometheus-scrape-timeout-seconds: 2\r\n"));
        // Nobody is there any more.
        assert_eq!(app.merged(OWN.to_owned(), &headers).await.body, failures(3));
    });
}

const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

#[test]
fn an_application_that_says_nothing_costs_only_its_own_metrics() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = json!({"port": port}).to_string();
        let app = App::read(None, Some(&told), None).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(SCRAPE_TIMEOUT, HeaderValue::from_static("0.2"));
        let merged = app.merged(OWN.to_owned(), &headers);
        let merged = tokio::time::timeout(Duration::from_secs(8), merged)
            .await
            .unwrap();
        assert!(
            merged.body.contains("scrape_failures_total 1\n"),
            "{}",
            merged.body
        );
    });
}

#[test]
fn an_application_may_listen_at_the_pods_address_alone() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = Dialer::new("fd00::5, 127.0.0.9");
        let stream = dialer.connect(port).await.unwrap();
        assert_eq!(
            stream.peer_addr().unwrap().to_string(),
            format!("127.0.0.9:{port}")
        );
        // Redirection knows it by that.
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.6");
        let error = Dialer::default().connect(port).await.unwrap_err();
        assert!(error.contains(&format!("; [::1]:{port}: ")), "{error}");
    });
}

proptest::proptest! {
    /// Anything gets an answer, and what was adopted can be adopted again as it is.
    #[test]
    fn any_exposition_gets_an_answer(
        text in "([a-z_]{1,4}(\\{[a-z]=\"[^\n]{0,4}\"\\})? ?[0-9.eNa+-]{0,4}( #? ?[0-9{}]{0,3})?|# (TYPE|HELP|EOF)? ?[a-z_]{0,8} ?[a-z]{0,7}|\\PC{0,12}|envoy_(up|time)(_sum)? 1)(\n[a-z]{1,3} [0-9]{1,2}){0,3}",
        is_openmetrics: bool,
    ) {
        let format = if is_openmetrics { Format::OpenMetrics } else { Format::Text };
        if let Ok(adopted) = adopt(&text, format, OWN) {
            let again = adopt(&adopted.text, Format::Text, OWN);
            proptest::prop_assert_eq!(again.map(|again| again.text), Ok(adopted.text));
        }
    }

    /// Whatever a redirect says, it leads somewhere or nowhere.
    #[test]
    fn any_location_gets_an_answer(location in "((https?|ftp)://|//|/|\\?)?\\PC{0,20}") {
        let from = Url {
            is_tls: false,
            host: "10.0.0.7".to_owned(),
            port: 80,
            path: "/a/b?c".parse().unwrap(),
        };
        if let Some((to, is_absolute)) = from.resolve(&location) {
            proptest::prop_assert!(is_absolute || (to.host == from.host && to.port == from.port));
        }
    }
}
