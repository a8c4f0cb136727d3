//! The client of Jaeger's query API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::waterfall::{Trace, clean};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer that is read.
const MAX_ANSWER: usize = 256 << 20;
/// Services asked at once.
const AT_ONCE: usize = 4;

#[derive(Clone, Debug)]
pub(super) struct Api {
    base: String,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// Which traces to list.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) service: Option<String>,
    pub(super) limit: usize,
    pub(super) since: Duration,
    pub(super) min_duration: Option<Duration>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<serde_json::Value>,
    #[serde(default)]
    errors: Option<Vec<Problem>>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    msg: String,
}

impl Api {
    /// `server` is a URL such as `http://127.0.0.1:16686`, perhaps with a path before `/api`.
    pub(super) fn new(server: &str) -> anyhow::Result<Self> {
        let base = if server.contains("://") {
            server.trim_end_matches('/').to_owned()
        } else {
            format!("http://{}", server.trim_end_matches('/'))
        };
        let uri: Uri = base
            .parse()
            .with_context(|| format!("--server {server} is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            bail!("--server {server}: only http:// is supported");
        }
        if uri.query().is_some() {
            bail!("--server {server}: give the address only, without a query");
        }
        Ok(Self {
            base,
            client: Client::builder(TokioExecutor::new()).build_http(),
        })
    }

    pub(super) async fn trace(&self, id: &str) -> anyhow::Result<Trace> {
        let hexadecimal = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !hexadecimal || id.len() > 32 {
            bail!("\"{id}\" is not a trace id: it has up to 32 hexadecimal digits");
        }
        let data = self.get(&format!("/api/traces/{id}")).await?;
        let traces = traces(&data)?;
        let trace = traces.into_iter().next();
        trace.with_context(|| format!("{} has no trace {id}", self.base))
    }

    /// The newest traces, newest first; without a service, those of every service.
    pub(super) async fn newest(&self, wanted: &Wanted, now_us: u64) -> anyhow::Result<Vec<Trace>> {
        let services = match &wanted.service {
            Some(service) => vec![service.clone()],
            None => {
                let data = self.get("/api/services").await?;
                // Jaeger answers null when it knows none.
                Option::<Vec<String>>::deserialize(&data)
                    .with_context(|| format!("{}/api/services: not a list of names", self.base))?
                    .unwrap_or_default()
            }
        };
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut searches = JoinSet::new();
        for service in services {
            let (api, slots, path) = (
                self.clone(),
                Arc::clone(&slots),
                search_path(&service, wanted, now_us),
            );
            searches.spawn(async move {
                let _slot = slots.acquire_owned().await;
                traces(&api.get(&path).await?)
            });
        }
        let mut found = HashMap::new();
        while let Some(search) = searches.join_next().await {
            for trace in search?? {
                found.entry(trace.id.clone()).or_insert(trace);
            }
        }
        let mut newest: Vec<Trace> = found.into_values().collect();
        newest.sort_by(|a, b| b.range().0.cmp(&a.range().0).then_with(|| a.id.cmp(&b.id)));
        newest.truncate(wanted.limit);
        Ok(newest)
    }

    async fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let url = format!("{}{path}", self.base);
        match tokio::time::timeout(TIMEOUT, self.answer(&url)).await {
            Ok(answer) => answer,
            Err(_) => bail!("{url} did not answer within {TIMEOUT:?}"),
        }
    }

    async fn answer(&self, url: &str) -> anyhow::Result<serde_json::Value> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let response = self.client.get(uri).await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            anyhow::anyhow!(
                "can't reach the trace API at {} ({cause}): is the control plane running? Start it with \
                 `outrigger control-plane` or `outrigger demo`, or name another with --server URL",
                self.base
            )
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body
            .map_err(|error| anyhow::anyhow!("reading {url}: {error}"))?
            .to_bytes();
        let answer: Result<Answer, _> = serde_json::from_slice(&body);
        match answer {
            Ok(Answer {
                data: Some(data), ..
            }) if status.is_success() => Ok(data),
            Ok(Answer {
                data: None,
                errors: None,
            }) if status.is_success() => Ok(serde_json::Value::Null),
            Ok(Answer {
                errors: Some(errors),
                ..
            }) if !errors.is_empty() => {
                let said: Vec<String> = errors.iter().map(|error| clean(&error.msg)).collect();
                bail!("{url}: {}", said.join("; "))
            }
            _ if status.is_success() => {
                bail!("{url} did not answer as Jaeger's query API: is --server the right address?")
            }
            _ => bail!("{url} answered {status}: is --server the right address?"),
        }
    }
}

pub(super) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    micros(since)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn traces(data: &serde_json::Value) -> anyhow::Result<Vec<Trace>> {
    let list = data.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(Trace::from_jaeger).collect()
}

fn search_path(service: &str, wanted: &Wanted, now_us: u64) -> String {
    let start = now_us.saturating_sub(micros(wanted.since));
    let mut path = format!(
        "/api/traces?service={}&limit={}&start={start}&end={now_us}",
        escaped(service),
        wanted.limit
    );
    if let Some(min) = wanted.min_duration {
        path.push_str(&format!("&minDuration={}us", micros(min)));
    }
    path
}

/// Percent-encodes all but what needs none in any part of a URL.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
