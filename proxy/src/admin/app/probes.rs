//! Probes and hooks, by the kubelet's rules: what `OUTRIGGER_APP_PROBES` says, and how it is done.

use std::{collections::BTreeMap, num::NonZeroU16, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::PathAndQuery};
use serde::Deserialize;

use super::{
    Asked,
    dial::Dialer,
    fetch::{self, Get, Url},
    grpc,
};

/// Of probes that say nothing else, as the API server sets it.
const TIMEOUT: u64 = 1;
/// As much of a body as the kubelet reads.
const BODY: usize = 10 * 1024;
/// What Go's client leaves out of the headers that it is given.
const NOT_SENT: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TRAILER,
];

/// The variable's value: by page.
pub(super) type Told = BTreeMap<String, ToldProbe>;

/// One probe as the injector tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ToldProbe {
    http_get: Option<ToldGet>,
    tcp_socket: Option<ToldSocket>,
    grpc: Option<ToldGrpc>,
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ToldGet {
    path: Option<String>,
    port: NonZeroU16,
    scheme: Option<Scheme>,
    http_headers: Option<Vec<ToldHeader>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    Http,
    Https,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldHeader {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldSocket {
    port: NonZeroU16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldGrpc {
    port: NonZeroU16,
    service: Option<String>,
}

/// What is done for one page.
#[derive(Debug)]
pub(super) struct Probe {
    handler: Handler,
    /// None for hooks: they may take until the pod's grace period ends.
    timeout: Option<Duration>,
}

#[derive(Debug)]
enum Handler {
    Http(HttpGet),
    Tcp(u16),
    Grpc { port: u16, service: String },
}

#[derive(Debug)]
struct HttpGet {
    is_tls: bool,
    port: u16,
    path: PathAndQuery,
    host: Option<HeaderValue>,
    headers: HeaderMap,
    /// For a hook any answer will do.
    is_hook: bool,
}

/// Checks what was told; an error comes with its path.
pub(super) fn compile(told: Told) -> Result<BTreeMap<String, Probe>, (String, String)> {
    told.into_iter()
        .map(|(page, told)| match probe(&page, told) {
            Ok(probe) => Ok((page, probe)),
            Err(("", error)) => Err((page, error)),
            Err((field, error)) => Err((format!("{page}.{field}"), error)),
        })
        .collect()
}

fn probe(page: &str, told: ToldProbe) -> Result<Probe, (&'static str, String)> {
    let is_hook = is_hook(page).ok_or_else(|| {
        let pages = "/app-health/CONTAINER/livez, readyz or startupz, nor \
                     /app-lifecycle/CONTAINER/poststartz or prestopz";
        ("", format!("neither {pages}"))
    })?;
    let ToldProbe {
        http_get,
        tcp_socket,
        grpc,
        timeout_seconds,
    } = told;
    let handler = match (http_get, tcp_socket, grpc) {
        (Some(get), None, None) => Handler::Http(http_get_of(get, is_hook)?),
        (None, Some(socket), None) => Handler::Tcp(socket.port.get()),
        (None, None, Some(grpc)) => Handler::Grpc {
            port: grpc.port.get(),
            service: grpc.service.unwrap_or_default(),
        },
        _ => {
            let error = "exactly one of httpGet, tcpSocket and grpc is needed";
            return Err(("", error.to_owned()));
        }
    };
    let seconds = timeout_seconds.map_or(TIMEOUT, |seconds| u64::from(seconds).max(TIMEOUT));
    Ok(Probe {
        handler,
        timeout: (!is_hook).then_some(Duration::from_secs(seconds)),
    })
}

/// Whether a page is a hook's; none if it is no such page.
fn is_hook(page: &str) -> Option<bool> {
    let mut parts = page.strip_prefix('/')?.split('/');
    let parts = [
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next().unwrap_or_default(),
    ];
    match parts {
        ["app-health", container, "livez" | "readyz" | "startupz", ""] => {
            (!container.is_empty()).then_some(false)
        }
        ["app-lifecycle", container, "poststartz" | "prestopz", ""] => {
            (!container.is_empty()).then_some(true)
        }
        _ => None,
    }
}

fn http_get_of(told: ToldGet, is_hook: bool) -> Result<HttpGet, (&'static str, String)> {
    let ToldGet {
        path,
        port,
        scheme,
        http_headers,
    } = told;
    let path = path.as_deref().unwrap_or("/");
    let path = fetch::path(path).ok_or_else(|| ("httpGet.path", "no path".to_owned()))?;
    let mut headers = HeaderMap::new();
    for ToldHeader { name, value } in http_headers.unwrap_or_default() {
        let wrong = |error: &str| {
            let error = format!("{name:?}: {error}");
            ("httpGet.httpHeaders", error)
        };
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(&error.to_string()))?;
        let value =
            HeaderValue::try_from(value.as_str()).map_err(|error| wrong(&error.to_string()))?;
        headers.append(name, value);
    }
    let host = headers
        .get(header::HOST)
        .filter(|host| !host.is_empty())
        .cloned();
    for name in NOT_SENT {
        headers.remove(name);
    }
    Ok(HttpGet {
        is_tls: scheme.unwrap_or_default() == Scheme::Https,
        port: port.get(),
        path,
        host,
        headers,
        is_hook,
    })
}

impl Probe {
    /// Asks the application; says how it went well, or why it did not.
    pub(super) async fn run(&self, dialer: &Dialer, asked: Asked<'_>) -> Result<String, String> {
        let done = self.handler.ask(dialer, asked);
        match self.timeout {
            None => done.await,
            Some(timeout) => tokio::time::timeout(timeout, done)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {}s", timeout.as_secs()))),
        }
    }
}

impl Handler {
    async fn ask(&self, dialer: &Dialer, asked: Asked<'_>) -> Result<String, String> {
        match self {
            Self::Http(get) => get.ask(dialer, asked).await,
            Self::Tcp(port) => {
                dialer.connect(*port).await?;
                Ok(format!("port {port} takes connections"))
            }
            Self::Grpc { port, service } => {
                grpc::check(dialer, *port, service, asked).await?;
                Ok("SERVING".to_owned())
            }
        }
    }
}

impl HttpGet {
    async fn ask(&self, dialer: &Dialer, asked: Asked<'_>) -> Result<String, String> {
        let get = Get {
            url: Url {
                is_tls: self.is_tls,
                host: asked.host().to_owned(),
                port: self.port,
                path: self.path.clone(),
            },
            host: self.host.clone(),
            headers: self.sent(asked),
            keep: BODY,
        };
        let status = fetch::get(dialer, &get).await?.status;
        // The kubelet looks at the status of probes alone.
        if self.is_hook || (200..400).contains(&status.as_u16()) {
            Ok(format!("answered with {}", status.as_u16()))
        } else {
            Err(format!(
                "HTTP probe failed with statuscode: {}",
                status.as_u16()
            ))
        }
    }

    /// An empty `Accept` or `User-Agent` is how a probe says that it wants none.
    fn sent(&self, asked: Asked<'_>) -> HeaderMap {
        let mut headers = self.headers.clone();
        let accept = Some(HeaderValue::from_static("*/*"));
        let agent = asked.header("user-agent").cloned();
        for (name, value) in [(header::ACCEPT, accept), (header::USER_AGENT, agent)] {
            match headers.get(&name) {
                None => {
                    if let Some(value) = value {
                        headers.insert(name, value);
                    }
                }
                Some(own) if own.is_empty() => {
                    headers.remove(name);
                }
                Some(_) => {}
            }
        }
        headers
    }
}
