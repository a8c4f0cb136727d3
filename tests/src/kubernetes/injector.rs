//! `outrigger injector` as a process, and what calls it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::DEADLINE;
use crate::process::Process;
use crate::{client, proxy, wait};

/// A running webhook; dropping it kills it.
#[derive(Debug)]
pub struct Injector {
    process: Process,
    addresses: Addresses,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Addresses {
    webhook: SocketAddr,
    metrics: SocketAddr,
}

impl Injector {
    /// Starts one without a cluster, with a directory of its own for certificates.
    pub async fn start(args: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificates = folder.path().join("certificates").display().to_string();
        let args = [args, &["--cert-dir", &certificates]].concat();
        Self::launch("injector", &args, &[], folder).await
    }

    /// Starts one that finds its cluster by a kubeconfig.
    pub async fn start_in_cluster(name: &str, kubeconfig: &Path, args: &[&str]) -> Result<Self> {
        let kubeconfig = kubeconfig.display().to_string();
        let env = [("KUBECONFIG", kubeconfig.as_str())];
        Self::launch(name, args, &env, tempfile::tempdir()?).await
    }

    async fn launch(
        name: &str,
        args: &[&str],
        env: &[(&str, &str)],
        folder: TempDir,
    ) -> Result<Self> {
        let file = folder.path().join("addresses.json");
        let mut all = vec!["injector", "--port", "0", "--metrics-port", "0"];
        all.extend(args);
        let mut all: Vec<String> = all.into_iter().map(str::to_owned).collect();
        all.push("--addresses-file".to_owned());
        all.push(file.display().to_string());
        let mut process = Process::start(name, &proxy::binary("outrigger")?, &all, env)?;
        let addresses = wait::until("the webhook's addresses", DEADLINE, async || {
            if let Err(error) = process.check_running() {
                return Ok(Err(error));
            }
            Ok(Ok(serde_json::from_slice(&fs::read(&file)?)?))
        })
        .await??;
        Ok(Self {
            process,
            addresses,
            folder,
        })
    }

    /// Where it takes reviews.
    pub fn webhook(&self) -> SocketAddr {
        self.addresses.webhook
    }

    /// Where it tells how it is.
    pub fn metrics_address(&self) -> SocketAddr {
        self.addresses.metrics
    }

    /// A page of its plain port: status and text.
    pub async fn page(&self, path: &str) -> Result<(u16, String)> {
        let reply = client::get(self.addresses.metrics, path).await?;
        Ok((
            reply.status,
            String::from_utf8_lossy(&reply.body).into_owned(),
        ))
    }

    /// The value of a metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.page("/metrics").await?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value
            .with_context(|| format!("no {name} in {text}"))?
            .parse()?)
    }

    /// What callers have to trust now.
    pub fn authorities(&self) -> Result<String> {
        let file = self.folder.path().join("certificates/ca.crt");
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    /// Asks it to stop, without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// Asks it to stop and waits for its end, which must be a good one.
    pub async fn stop(mut self) -> Result<()> {
        self.terminate()?;
        self.ended().await
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_some())
    }

    /// Waits for its end, which must be a good one.
    pub async fn ended(&mut self) -> Result<()> {
        let status = self.process.wait(DEADLINE).await?;
        ensure!(status.success(), "{status}: {}", self.process.log());
        Ok(())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status of HTTP.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The review in it.
    pub fn review(&self) -> Result<Value> {
        ensure!(self.status == 200, "{}: {}", self.status, self.body);
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// One connection with TLS; dropping it closes the socket.
#[derive(Debug)]
pub struct Https {
    sender: Sender,
    connection: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Https {
    /// Connects by HTTP/2 or HTTP/1.1, as `protocol` (its name in ALPN) says; `authorities` are trusted.
    pub async fn connect(address: SocketAddr, authorities: &str, protocol: &str) -> Result<Self> {
        let stream = tls(address, authorities, protocol).await?;
        let io = TokioIo::new(stream);
        let (sender, connection) = match protocol {
            "h2" => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                (
                    Sender::Http2(sender),
                    tokio::spawn(async { _ = connection.await }),
                )
            }
            _ => {
                let (sender, connection) = http1::handshake(io).await?;
                (
                    Sender::Http1(sender),
                    tokio::spawn(async { _ = connection.await }),
                )
            }
        };
        Ok(Self { sender, connection })
    }

    /// Sends a review.
    pub async fn review(&mut self, path: &str, review: &Value) -> Result<Value> {
        let request = Request::post(path).header("content-type", "application/json");
        let body = Bytes::from(serde_json::to_vec(review)?);
        self.send(request.body(Full::new(body))?).await?.review()
    }

    /// Sends any request.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Reply> {
        let exchange = async {
            let reply = match &mut self.sender {
                Sender::Http1(sender) => {
                    let host = http::HeaderValue::from_static("localhost");
                    request.headers_mut().insert("host", host);
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => {
                    let path = request.uri().path().to_owned();
                    *request.uri_mut() = format!("https://localhost{path}").parse()?;
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let status = reply.status().as_u16();
            let body = reply.into_body().collect().await?.to_bytes();
            Ok(Reply {
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .context("no answer")?
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A connection with TLS alone.
pub async fn tls(
    address: SocketAddr,
    authorities: &str,
    protocol: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let agreed = stream.get_ref().1.alpn_protocol();
    if agreed != Some(protocol.as_bytes()) {
        bail!("{protocol} was not agreed on");
    }
    Ok(stream)
}

/// The review of a pod that is created in `namespace`.
pub fn review(uid: &str, namespace: &str, pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}

/// Where the built command is.
pub fn program() -> Result<PathBuf> {
    proxy::binary("outrigger")
}
