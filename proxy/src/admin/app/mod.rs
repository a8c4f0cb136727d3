//! The application that the proxy is the sidecar of, as far as the admin endpoint speaks for it: its probes
//! and hooks, which the kubelet sends over the network, and its metrics beside the proxy's own.
//!
//! The injector says by environment variables what there is to ask. Without them there is no such page.

mod dial;
mod exposition;
mod fetch;
mod grpc;
mod metrics;
mod probes;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, env};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority};
use serde::de::DeserializeOwned;

use self::{dial::Dialer, metrics::Metrics, probes::Probe};
use super::serve::Reply;

/// JSON: the path of a page, and what to ask the application then.
const PROBES: &str = "OUTRIGGER_APP_PROBES";
/// JSON: where the application serves metrics.
const METRICS: &str = "OUTRIGGER_APP_METRICS";
/// The pod's addresses, for an application that does not listen on loopback.
const POD_IPS: &str = "OUTRIGGER_POD_IPS";

/// What the application is asked, and how.
#[derive(Debug, Default)]
pub struct App {
    probes: BTreeMap<String, Probe>,
    metrics: Option<Metrics>,
    dialer: Dialer,
}

/// The request that makes us ask the application: some of it is passed on.
#[derive(Clone, Copy)]
struct Asked<'a>(&'a HeaderMap);

impl App {
    /// As the environment says.
    ///
    /// # Errors
    /// A variable does not say it well; the error has its name and the path in it.
    pub fn from_environment() -> Result<Self, String> {
        let variable = |name| match env::var(name) {
            Ok(text) => Ok((!text.trim().is_empty()).then_some(text)),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: not UTF-8")),
        };
        Self::read(
            variable(PROBES)?.as_deref(),
            variable(METRICS)?.as_deref(),
            variable(POD_IPS)?.as_deref(),
        )
    }

    fn read(
        probes: Option<&str>,
        metrics: Option<&str>,
        addresses: Option<&str>,
    ) -> Result<Self, String> {
        let probes = match probes {
            None => BTreeMap::new(),
            Some(text) => probes::compile(json(PROBES, text)?)
                .map_err(|(path, error)| format!("{PROBES}: {path}: {error}"))?,
        };
        let metrics = match metrics {
            None => None,
            Some(text) => Some(
                Metrics::new(&json(METRICS, text)?)
                    .map_err(|(path, error)| format!("{METRICS}: {path}: {error}"))?,
            ),
        };
        Ok(Self {
            probes,
            metrics,
            dialer: Dialer::new(addresses.unwrap_or_default()),
        })
    }

    /// The answer to a probe or hook of the kubelet; none if there is no such page.
    pub(super) async fn probe(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Reply> {
        let probe = self.probes.get(path)?;
        if method != Method::GET && method != Method::HEAD {
            let text = format!("Method {method} not allowed, GET required.");
            return Some(Reply::new(StatusCode::METHOD_NOT_ALLOWED, text));
        }
        Some(match probe.run(&self.dialer, Asked(headers)).await {
            Ok(what) => Reply::text(format!("{what}\n")),
            Err(why) => {
                tracing::debug!(path, why, "the application's probe failed");
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
            }
        })
    }

    /// The proxy's own metrics, and the application's behind them if it has some.
    pub(super) async fn merged(&self, own: String, headers: &HeaderMap) -> Reply {
        let body = match &self.metrics {
            Some(metrics) => metrics.merge(own, &self.dialer, Asked(headers)).await,
            None => own,
        };
        Reply {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Reply::text(body)
        }
    }
}

impl<'a> Asked<'a> {
    /// How the pod was called, without a port.
    fn host(self) -> &'a str {
        let host = self.0.get(header::HOST).and_then(|host| host.to_str().ok());
        host.filter(|host| host.parse::<Authority>().is_ok())
            .map_or("localhost", |host| match host.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|one| one.is_ascii_digit()) => name,
                _ => host,
            })
    }

    /// `HOST:PORT` of the application.
    fn authority(self, port: u16) -> HeaderValue {
        HeaderValue::try_from(format!("{}:{port}", self.host()))
            .unwrap_or(HeaderValue::from_static("localhost"))
    }

    fn header(self, name: &str) -> Option<&'a HeaderValue> {
        self.0.get(name)
    }
}

/// Reads JSON; the error says where.
fn json<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "." | "?" => format!("{name}: {}", error.inner()),
            path => format!("{name}: {path}: {}", error.inner()),
        }
    })?;
    reader.end().map_err(|error| format!("{name}: {error}"))?;
    Ok(value)
}

/// An error with what caused it.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Some say it themselves already.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
