//! What a sidecar does for its pod: the real proxy with the arguments and the environment that the injector
//! writes, asked as the kubelet and Prometheus ask.

mod sidecar;
mod wrapper;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use outrigger_mesh::scope::{Mode, OutboundPolicy};
use outrigger_tests::ads::AdsServer;
use outrigger_tests::mesh::DEADLINE;
use outrigger_tests::upstream::{SCRIPT, Script, Upstream};
use outrigger_tests::{block_on, client, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use sidecar::{Sidecar, metadata, pod, refusal};

/// Nobody listens there.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

const LIVE: &str = "/app-health/app/livez";
const READY: &str = "/app-health/app/readyz";
const STARTED: &str = "/app-health/app/startupz";

async fn says(sidecar: &Sidecar, page: &str, status: u16, text: &str) -> Result<()> {
    let reply = sidecar.kubelet(page).await?;
    ensure!(
        reply.status == status && reply.text().contains(text),
        "{page}: {} {}, not {status} {text}\n{}",
        reply.status,
        reply.text(),
        sidecar.process.log()
    );
    Ok(())
}

/// A probe that makes the application answer so.
fn get(port: u16, path: &str, script: &Value) -> Value {
    let header = json!({"name": SCRIPT, "value": script.to_string()});
    json!({"path": path, "port": port, "httpHeaders": [header]})
}

#[test]
fn http_probes_and_hooks_reach_the_application() -> Result<()> {
    block_on(async {
        let app = Upstream::start("app").await?;
        let port = app.address().port();
        let pod = pod(&json!({
            "ports": [{"name": "http", "containerPort": port}],
            "livenessProbe": {
                "httpGet": {"path": "/healthz?full=1&x=%20", "port": "http"},
                "timeoutSeconds": 5,
            },
            "readinessProbe": {"httpGet": get(port, "/ready", &json!({"status": 503}))},
            "startupProbe": {"httpGet": get(port, "/slow", &json!({"delay_ms": 60_000}))},
            "lifecycle": {
                "postStart": {"httpGet": get(port, "/start", &json!({"status": 404}))},
                "preStop": {"httpGet": get(port, "/stop", &json!({"delay_ms": 1500}))},
            },
        }));
        let sidecar = Sidecar::start(&pod, NOBODY).await?;
        says(&sidecar, LIVE, 200, "answered with 200").await?;
        let asked = app.take_received();
        ensure!(
            asked.len() == 1
                && asked[0].path == "/healthz?full=1&x=%20"
                && asked[0].authority == format!("10.1.0.5:{port}")
                && asked[0]
                    .headers
                    .contains(&("user-agent".to_owned(), "kube-probe/1.31".to_owned())),
            "{asked:?}"
        );
        says(
            &sidecar,
            READY,
            503,
            "HTTP probe failed with statuscode: 503",
        )
        .await?;
        says(&sidecar, STARTED, 503, "no answer within 1s").await?;
        says(
            &sidecar,
            "/app-lifecycle/app/poststartz",
            200,
            "answered with 404",
        )
        .await?;
        // A hook has more time than a probe.
        says(
            &sidecar,
            "/app-lifecycle/app/prestopz",
            200,
            "answered with 200",
        )
        .await?;
        says(&sidecar, "/app-health/other/livez", 404, "invalid path").await?;
        // Nothing else of the admin interface is to be had there.
        says(&sidecar, "/quitquitquit", 404, "").await?;
        drop(app);
        says(&sidecar, LIVE, 503, "cannot connect: 127.0.0.1:").await
    })
}

#[test]
fn tcp_and_grpc_probes_reach_the_application() -> Result<()> {
    block_on(async {
        // SERVING, in its frame.
        let serving = Script {
            headers: vec![("content-type".to_owned(), "application/grpc".to_owned())],
            body: Some("\0\0\0\0\u{2}\u{8}\u{1}".to_owned()),
            trailers: vec![("grpc-status".to_owned(), "0".to_owned())],
            ..Script::default()
        };
        let app = Upstream::start_with("app", "127.0.0.1:0".parse()?, Some(serving)).await?;
        let port = app.address().port();
        let tcp = TcpListener::bind("[::1]:0").await?;
        let pod = pod(&json!({
            "livenessProbe": {"grpc": {"port": port, "service": "shop.Cart"}},
            "readinessProbe": {"tcpSocket": {"port": tcp.local_addr()?.port()}},
            "startupProbe": {"grpc": {"port": tcp.local_addr()?.port()}, "timeoutSeconds": 1},
        }));
        let sidecar = Sidecar::start(&pod, NOBODY).await?;
        says(&sidecar, LIVE, 200, "SERVING").await?;
        let asked = app.take_received();
        ensure!(
            asked.len() == 1
                && asked[0].path == "/grpc.health.v1.Health/Check"
                && asked[0].body == "\0\0\0\0\u{b}\n\tshop.Cart",
            "{asked:?}"
        );
        says(&sidecar, READY, 200, "takes connections").await?;
        says(&sidecar, STARTED, 503, "no answer within 1s").await?;
        drop(tcp);
        says(&sidecar, READY, 503, "cannot connect").await
    })
}

/// An application that speaks TLS, with a certificate that nobody knows, and answers 204.
async fn encrypted(protocols: &[&str]) -> Result<u16> {
    let key = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()])?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let private = private.map_err(anyhow::Error::msg)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)?;
    config.alpn_protocols = protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    continue;
                };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let reply = http::Response::builder().status(204).body(());
                    let reply = reply.expect("it is whole");
                    // The client may have gone.
                    drop(respond.send_response(reply, true));
                }
                continue;
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await);
            drop(stream.shutdown().await);
        }
    });
    Ok(port)
}

#[test]
fn https_probes_ask_for_no_certificate() -> Result<()> {
    block_on(async {
        let probe = |port: u16| json!({"httpGet": {"port": port, "scheme": "HTTPS"}});
        let plain = Upstream::start("plain").await?;
        let pod = pod(&json!({
            "livenessProbe": probe(encrypted(&["h2", "http/1.1"]).await?),
            "readinessProbe": probe(encrypted(&[]).await?),
            "startupProbe": probe(plain.address().port()),
        }));
        let sidecar = Sidecar::start(&pod, NOBODY).await?;
        says(&sidecar, LIVE, 200, "answered with 204").await?;
        says(&sidecar, READY, 200, "answered with 204").await?;
        says(&sidecar, STARTED, 503, "no TLS: ").await
    })
}

#[test]
fn prometheus_gets_both_expositions() -> Result<()> {
    block_on(async {
        let own = Script {
            headers: vec![(
                "content-type".to_owned(),
                "application/openmetrics-text; version=1.0.0; charset=utf-8".to_owned(),
            )],
            body: Some("# TYPE orders counter\norders_total{kind=\"new\"} 7\n# EOF\n".to_owned()),
            ..Script::default()
        };
        let app = Upstream::start_with("app", "127.0.0.1:0".parse()?, Some(own)).await?;
        let mut pod = pod(&json!({}));
        pod["metadata"]["annotations"] = json!({
            "prometheus.io/scrape": "true",
            "prometheus.io/port": app.address().port().to_string(),
            "prometheus.io/path": "/metrics",
        });
        let sidecar = Sidecar::start(&pod, NOBODY).await?;
        let metrics = sidecar.listener("outrigger-metrics").await?;
        let reply = client::get(metrics, "/stats/prometheus").await?;
        let text = reply.text();
        let kind = reply.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        ensure!(
            text.contains("\nenvoy_server_live{} ")
                && text.contains("\noutrigger_app_metrics_scrape_failures_total 0\n")
                && text.ends_with("# TYPE orders_total counter\norders_total{kind=\"new\"} 7\n"),
            "{text}"
        );
        let asked = app.take_received();
        ensure!(asked.len() == 1 && asked[0].path == "/metrics", "{asked:?}");
        drop(app);
        let text = client::get(metrics, "/stats/prometheus").await?.text();
        ensure!(
            text.contains("\nenvoy_server_live{} ")
                && text.contains("\noutrigger_app_metrics_scrape_failures_total 1\n")
                && !text.contains("orders"),
            "{text}"
        );
        let log = sidecar.process.log();
        ensure!(
            log.contains("no metrics of the application (http, port "),
            "{log}"
        );
        // A pod may have addresses of either family.
        let metrics = sidecar.listener_v6("outrigger-metrics").await?;
        let reply = client::get(metrics, "/stats/prometheus").await?;
        ensure!(reply.status == 200, "{reply:?}");
        let other = client::get(metrics, "/stats").await?;
        ensure!(other.status == 404, "{other:?}");
        Ok(())
    })
}

#[test]
fn the_control_plane_reads_who_the_pod_is() -> Result<()> {
    let mut pod = pod(&json!({}));
    let read = metadata(&pod)?;
    ensure!(
        read.namespace == "shop"
            && read.pod == "web-1"
            && read.service == "web"
            && read.service_account == "web"
            && read.labels.get("app").is_some_and(|app| app == "web"),
        "{read:?}"
    );
    let interception = read.interception.context("no interception")?;
    let addresses: [std::net::IpAddr; 2] = ["10.1.0.5".parse()?, "fd00::5".parse()?];
    ensure!(interception.addresses == addresses, "{interception:?}");
    ensure!(
        (interception.outbound, interception.inbound) == (15001, 15006)
            && interception.mode == Mode::Redirect
            && interception.outbound_policy == OutboundPolicy::AllowAny,
        "{interception:?}"
    );
    pod["metadata"]["annotations"] = json!({
        "outrigger.dev/redirect": "tproxy",
        "outrigger.dev/outbound-policy": "registry-only",
    });
    let interception = metadata(&pod)?.interception.context("no interception")?;
    ensure!(
        interception.mode == Mode::Tproxy
            && interception.outbound_policy == OutboundPolicy::RegistryOnly,
        "{interception:?}"
    );
    pod["metadata"]["annotations"] = json!({"outrigger.dev/redirect": "none"});
    let read = metadata(&pod)?;
    ensure!(read.interception.is_none(), "{read:?}");
    Ok(())
}

#[test]
fn a_pod_is_ready_with_its_configuration() -> Result<()> {
    block_on(async {
        let ads = AdsServer::start().await?;
        let sidecar = Sidecar::start(&pod(&json!({})), ads.address()).await?;
        wait::until("the sidecar to ask", DEADLINE, async || {
            ensure!(!ads.requests().is_empty(), "not yet");
            Ok(())
        })
        .await?;
        says(&sidecar, "/healthz/ready", 503, "INITIALIZING").await?;
        says(&sidecar, "/healthz/live", 200, "").await?;
        for kind in ["Cluster", "Listener"] {
            ads.set(kind, Vec::new());
        }
        wait::until("the pod to be ready", DEADLINE, async || {
            says(&sidecar, "/healthz/ready", 200, "LIVE").await
        })
        .await
    })
}

#[test]
fn what_is_told_wrongly_ends_the_start() -> Result<()> {
    block_on(async {
        let probes = json!({LIVE: {"httpGet": {"port": "http"}}}).to_string();
        let (code, said) = refusal("OUTRIGGER_APP_PROBES", &probes).await?;
        let path = format!("OUTRIGGER_APP_PROBES: {LIVE}.httpGet.port: ");
        ensure!(code == 1 && said.contains(&path), "{code}: {said}");
        let (code, said) = refusal("OUTRIGGER_APP_METRICS", r#"{"prot": 1}"#).await?;
        let path = "OUTRIGGER_APP_METRICS: prot: unknown field";
        ensure!(code == 1 && said.contains(path), "{code}: {said}");
        Ok(())
    })
}
