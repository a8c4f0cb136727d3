//! A small HTTP service for the demo. It knows nothing of Outrigger: it calls others by name through
//! whatever `http_proxy` its environment names, and passes on tracing headers as any instrumented
//! application does.

use std::{convert::Infallible, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

/// Headers that carry a trace; an application that wants its traces whole passes them on.
const TRACE_HEADERS: [&str; 9] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-request-id",
];

/// What a sample service is told.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Args {
    /// Its name, in its answers.
    #[arg(long)]
    name: String,
    /// Its version, in its answers.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Services that it calls for each request, by name.
    #[arg(long = "call", value_name = "NAME")]
    calls: Vec<String>,
    /// The HTTP proxy that calls go through.
    #[arg(long, env = "http_proxy")]
    http_proxy: Option<SocketAddr>,
    /// Time that a request takes.
    #[arg(long, default_value_t = 1)]
    delay_ms: u64,
    /// One of how many requests is slow; 0 is none.
    #[arg(long, default_value_t = 0)]
    slow_every: u64,
    /// Time that a slow request takes.
    #[arg(long, default_value_t = 120)]
    slow_ms: u64,
}

struct Service {
    args: Args,
    behaviour: std::sync::Mutex<Behaviour>,
    client: Client<HttpConnector, Full<Bytes>>,
    count: std::sync::atomic::AtomicU64,
}

/// How it answers; `PUT /behave?status=503&delay_ms=200` changes it.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    status: StatusCode,
    delay_ms: u64,
}

impl Behaviour {
    fn change(&mut self, query: &str) -> Option<()> {
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            match name {
                "status" => self.status = value.parse().ok()?,
                "delay_ms" => self.delay_ms = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(())
    }
}

/// Serves until SIGTERM, then answers what it has begun.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("{} can't listen on {}", args.name, args.listen))?;
    let service = Arc::new(Service {
        behaviour: std::sync::Mutex::new(Behaviour {
            status: StatusCode::OK,
            delay_ms: args.delay_ms,
        }),
        args,
        client: Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .build_http(),
        count: std::sync::atomic::AtomicU64::new(0),
    });
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of descriptors or a peer that is gone already: go on with the next.
                let Ok((stream, _)) = accepted else { continue };
                drop(stream.set_nodelay(true));
                let service = Arc::clone(&service);
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(
                    TokioIo::new(stream),
                    hyper::service::service_fn(move |request| {
                        let service = Arc::clone(&service);
                        async move { Ok::<_, Infallible>(service.answer(request).await) }
                    }),
                );
                let connection = graceful.watch(connection);
                tokio::spawn(async move { drop(connection.await) });
            }
            _ = terminate.recv() => break,
        }
    }
    drop(listener);
    drop(tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await);
    Ok(ExitCode::SUCCESS)
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() == http::Method::PUT && request.uri().path() == "/behave" {
            return self.behave(request.uri().query().unwrap_or_default());
        }
        let behaviour = *self.behaviour();
        let count = self
            .count
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        let is_slow = self.args.slow_every > 0 && count.is_multiple_of(self.args.slow_every);
        let delay = if is_slow {
            self.args.slow_ms
        } else {
            behaviour.delay_ms
        };
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let mut calls = JoinSet::new();
        for name in &self.args.calls {
            let service = Arc::clone(&self);
            let name = name.clone();
            let headers = request.headers().clone();
            calls.spawn(async move { service.call(&name, &headers).await });
        }
        let mut answers = Vec::new();
        let mut status = behaviour.status;
        while let Some(answer) = calls.join_next().await {
            match answer {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(error)) => {
                    status = StatusCode::BAD_GATEWAY;
                    answers.push(json!({ "error": format!("{error:#}") }));
                }
                Err(error) => {
                    status = StatusCode::INTERNAL_SERVER_ERROR;
                    answers.push(json!({ "error": error.to_string() }));
                }
            }
        }
        let body = json!({
            "service": self.args.name,
            "version": self.args.version,
            "calls": answers,
        });
        let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
        *response.status_mut() = status;
        response.headers_mut().insert(
            "content-type",
            http::HeaderValue::from_static("application/json"),
        );
        response
    }

    /// A panic in a holder leaves a behaviour that is still one.
    fn behaviour(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.behaviour
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn behave(&self, query: &str) -> Response<Full<Bytes>> {
        let mut next = *self.behaviour();
        let mut response = Response::new(Full::default());
        match next.change(query) {
            Some(()) => *self.behaviour() = next,
            None => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        response
    }

    async fn call(&self, name: &str, incoming: &HeaderMap) -> anyhow::Result<serde_json::Value> {
        let (uri, host) = match self.args.http_proxy {
            // A forward proxy is asked with the service's name in `host`.
            Some(proxy) => (format!("http://{proxy}/{name}"), name.to_owned()),
            None => (format!("http://{name}/{name}"), name.to_owned()),
        };
        let mut request = Request::builder().uri(uri).header("host", host);
        for header in TRACE_HEADERS {
            if let Some(value) = incoming.get(header) {
                request = request.header(header, value);
            }
        }
        let response = self
            .client
            .request(request.body(Full::default())?)
            .await
            .with_context(|| format!("calling {name}"))?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            anyhow::bail!(
                "{name} answered {status}: {}",
                String::from_utf8_lossy(&body).trim()
            );
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
