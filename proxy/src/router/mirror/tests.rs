use std::task::Waker;

use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    telemetry::stats::{Counter, Registry},
    worker::testing::TestWorker,
};

fn suffix(host: &str) -> String {
    let host = HeaderValue::try_from(host).unwrap();
    suffixed(&host).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn the_suffix_goes_before_the_port() {
    assert_eq!(suffix("a.b"), "a.b-shadow");
    assert_eq!(suffix("a.b:80"), "a.b-shadow:80");
    assert_eq!(suffix("[::1]:80"), "[::1]-shadow:80");
    assert_eq!(suffix("[::1]"), "[::1]-shadow");
    assert_eq!(suffix("::1"), "::1-shadow");
    assert_eq!(suffix("a:"), "a:-shadow");
    assert_eq!(suffix(""), "-shadow");
}

#[test]
fn addresses_are_joined_in_one_value() {
    let mut headers = HeaderMap::new();
    append_forwarded_for(&mut headers, "10.0.0.1");
    assert_eq!(headers[&FORWARDED_FOR], "10.0.0.1");
    headers.append(&FORWARDED_FOR, HeaderValue::from_static("1.1.1.1, 2.2.2.2"));
    append_forwarded_for(&mut headers, "10.0.0.2");
    assert_eq!(
        headers[&FORWARDED_FOR],
        "10.0.0.1,1.1.1.1, 2.2.2.2,10.0.0.2"
    );
    assert_eq!(headers.get_all(&FORWARDED_FOR).iter().count(), 1);
}

fn counter() -> Counter {
    Registry::new(1).scope("").counter("abandoned")
}

fn tee(body: Body, queue: &Rc<Queue>, abandoned: &Counter) -> Tee {
    Tee {
        body,
        senders: Senders::from_iter([Sender::new(queue, abandoned)]),
    }
}

/// A body of frames that are there, and then nothing for ever.
fn unfinished(chunks: &[&'static str]) -> Body {
    let frames: Vec<_> = chunks
        .iter()
        .map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes()))))
        .collect();
    let stream = futures_util::StreamExt::chain(
        futures_util::stream::iter(frames),
        futures_util::stream::pending(),
    );
    Body::boxed(http_body_util::StreamBody::new(stream))
}

#[tokio::test]
async fn a_copy_has_the_same_bytes_and_trailers() {
    let queue = Queue::new(None, 1024);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let chunk = Bytes::from_static(b"abc");
    let frames = [
        Ok(Frame::data(chunk.clone())),
        Ok(Frame::data(Bytes::from_static(b"de"))),
        Ok(Frame::trailers(trailers.clone())),
    ];
    let body = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
        frames,
    )));
    let live = tee(body, &queue, &counter()).collect().await.unwrap();
    assert!(queue.arrived().is_done());
    let mut copy = queue::body(queue);
    let first = copy.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.as_ptr(), chunk.as_ptr(), "the chunk is shared");
    let copy = copy.collect().await.unwrap();
    assert_eq!(copy.trailers(), Some(&trailers));
    assert_eq!(live.trailers(), Some(&trailers));
    assert_eq!(live.to_bytes(), "abcde");
    assert_eq!(copy.to_bytes(), "de");
}

#[tokio::test]
async fn a_slow_copy_is_given_up_and_counted_and_the_live_body_goes_on() {
    let abandoned = counter();
    let queue = Queue::new(None, 4);
    let mut live = tee(unfinished(&["abcdef", "g", "h"]), &queue, &abandoned);
    for expected in ["abcdef", "g", "h"] {
        let frame = live.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expected);
    }
    // One chunk may be larger than the limit; the next one was too much.
    assert_eq!(abandoned.value(), 1);
    let task = Context::from_waker(Waker::noop());
    assert!(queue.poll_given_up(&task).is_ready());
    assert!(queue::body(queue).frame().await.unwrap().is_err());
}

#[tokio::test]
async fn what_a_copy_has_read_is_not_held() {
    let abandoned = counter();
    let queue = Queue::new(Some(6), 4);
    let mut live = tee(unfinished(&["abc", "def"]), &queue, &abandoned);
    let mut copy = queue::body(Rc::clone(&queue));
    assert_eq!(http_body::Body::size_hint(&copy).exact(), Some(6));
    for _ in 0..2 {
        live.frame().await.unwrap().unwrap();
        copy.frame().await.unwrap().unwrap();
    }
    assert_eq!(http_body::Body::size_hint(&copy).exact(), Some(0));
    assert_eq!(abandoned.value(), 0);
}

#[test]
fn a_live_body_that_ends_early_takes_its_copy_along() {
    let queue = Queue::new(None, 4);
    let live = tee(unfinished(&[]), &queue, &counter());
    let task = Context::from_waker(Waker::noop());
    assert!(queue.poll_given_up(&task).is_pending());
    drop(live);
    assert!(queue.poll_given_up(&task).is_ready());
    assert!(!queue.arrived().is_done());
}

const CLUSTERS: [&str; 5] = ["live", "answers", "resets", "silent", "gone"];

/// Routes whose requests are mirrored to each kind of cluster, over both protocols.
fn bootstrap(ports: &[u16], limit: u32, timeout: &str) -> String {
    let clusters: String = CLUSTERS
        .iter()
        .zip(ports)
        .map(|(name, port)| {
            format!(
                "  - name: {name}\n    connect_timeout: 0.2s\n    load_assignment: {{cluster_name: {name}, \
                 endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
                 {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
            )
        })
        .collect();
    format!(
        r#"
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    per_connection_buffer_limit_bytes: {limit}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: t
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              request_mirror_policies: [{{cluster: answers}}, {{cluster: resets}}, {{cluster: silent}}, {{cluster: gone}}]
              routes:
              - {{match: {{prefix: /}}, route: {{cluster: live, timeout: {timeout}}}}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
{clusters}"#
    )
}

/// Reads whole requests and answers them.
async fn answer(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
                    let _whole = request.into_body().collect().await?;
                    Ok::<_, hyper::Error>(http::Response::new(http_body_util::Full::new(
                        Bytes::from_static(b"ok"),
                    )))
                });
            let _ended = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Whatever becomes of live requests and their copies, nothing that they held stays counted.
#[tokio::test]
async fn nothing_leaks() {
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (live, answers, resets, silent) = tokio::join!(listen(), listen(), listen(), listen());
    let (live, answers, resets, silent) = (
        live.unwrap(),
        answers.unwrap(),
        resets.unwrap(),
        silent.unwrap(),
    );
    let gone = listen().await.unwrap().local_addr().unwrap().port();
    let mut ports: Vec<u16> = [&live, &answers, &resets, &silent]
        .map(|listener| listener.local_addr().unwrap().port())
        .into();
    ports.push(gone);
    tokio::spawn(answer(live));
    tokio::spawn(answer(answers));
    tokio::spawn(async move { while resets.accept().await.is_ok() {} });
    // It takes connections and never reads.
    let kept = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(connection) = silent.accept().await {
            kept.push(connection);
        }
    });
    let worker = TestWorker::start(&bootstrap(&ports, 65536, "3s"));
    let address = worker.address();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..24_u32 {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let body = match number % 3 {
                0 => Vec::new(),
                1 => vec![b'x'; 100],
                // More than sockets and queues hold.
                _ => vec![b'x'; 16 << 20],
            };
            let head = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            if number % 4 == 3 {
                // The client goes away in the middle.
                let half = body.get(..body.len() / 2).unwrap_or_default();
                drop(stream.write_all(half).await);
                return None;
            }
            stream.write_all(&body).await.unwrap();
            let mut reply = vec![0; 12];
            stream.read_exact(&mut reply).await.unwrap();
            Some(String::from_utf8(reply).unwrap())
        });
    }
    while let Some(reply) = clients.join_next().await {
        if let Some(reply) = reply.unwrap() {
            assert_eq!(reply, "HTTP/1.1 200", "no copy touches the live request");
        }
    }
    let scope = worker.registry.scope("cluster");
    let held = || -> Vec<(&str, u64, u64, u64)> {
        let snapshot = worker.publisher.current();
        CLUSTERS
            .iter()
            .map(|name| {
                let circuit = &snapshot.cluster(name).unwrap().circuit;
                let resources = circuit.of(Priority::Default);
                let active = scope.scope(name).gauge("upstream_rq_active").value();
                let pending = resources.pending.current();
                (*name, resources.requests.current(), pending, active)
            })
            .filter(|(_, requests, pending, active)| requests + pending + active > 0)
            .collect()
    };
    let deadline = Instant::now() + Duration::from_secs(15);
    while !held().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held(), []);
    let count = |cluster: &str, name: &str| scope.scope(cluster).counter(name).value();
    assert!(
        count("live", "retry_or_shadow_abandoned") > 0,
        "large copies are given up"
    );
    assert!(count("answers", "upstream_rq_200") > 0);
    assert!(count("silent", "upstream_rq_timeout") > 0);
    assert!(count("gone", "upstream_cx_connect_fail") > 0);
    kept.abort();
}

/// A cluster that takes connections and reads nothing has a copy no longer than the request's time, even
/// if the whole body can wait for it.
#[tokio::test]
async fn a_copy_that_nobody_reads_ends_with_its_time() {
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (live, silent) = tokio::join!(listen(), listen());
    let (live, silent) = (live.unwrap(), silent.unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (good, bad) = (port(&live), port(&silent));
    tokio::spawn(answer(live));
    let ports = [good, good, good, bad, good];
    let worker = TestWorker::start(&bootstrap(&ports, 64 << 20, "1s"));
    let mut stream = TcpStream::connect(worker.address()).await.unwrap();
    let body = vec![b'x'; 12 << 20];
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut reply = vec![0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    let scope = worker.registry.scope("cluster.silent");
    let deadline = Instant::now() + Duration::from_secs(10);
    while scope.counter("upstream_rq_timeout").value() == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(scope.counter("upstream_rq_timeout").value(), 1);
    let abandoned = worker.registry.scope("cluster.live");
    assert_eq!(abandoned.counter("retry_or_shadow_abandoned").value(), 0);
    let active = scope.gauge("upstream_rq_active");
    while active.value() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(active.value(), 0);
    drop(silent);
}
