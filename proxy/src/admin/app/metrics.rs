//! One exposition for Prometheus: the proxy's own metrics, and behind them the application's.

use std::{
    cell::Cell,
    fmt::Write as _,
    num::NonZeroU16,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, StatusCode, header, uri::PathAndQuery};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    Asked,
    dial::Dialer,
    exposition::{self, Format},
    fetch::{self, Get, Url},
};

/// No application's metrics are longer, in bytes.
const LARGEST: usize = 64 << 20;
/// Prometheus says by this header how long it waits.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
/// Where it does not: a bit less than the 10 s that it waits by default.
const TIMEOUT: Duration = Duration::from_secs(9);
const LONGEST: Duration = Duration::from_secs(60);
/// Failures are logged that often at most.
const PAUSE: Duration = Duration::from_secs(60);
/// What we can add to: Prometheus' text format.
const ACCEPT: HeaderValue = HeaderValue::from_static("text/plain;version=0.0.4, */*;q=0.1");

/// The variable's value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    port: NonZeroU16,
    path: Option<String>,
    scheme: Option<String>,
}

/// Where the application's metrics are, and how often they could not be had.
#[derive(Debug)]
pub(super) struct Metrics {
    is_tls: bool,
    port: u16,
    path: PathAndQuery,
    failures: Cell<u64>,
    clashes: Cell<u64>,
    of_failures: Complaints,
    of_clashes: Complaints,
    /// One at a time: each may take much memory.
    place: Semaphore,
}

/// What is logged, and not too often.
#[derive(Debug, Default)]
struct Complaints {
    last: Cell<Option<Instant>>,
    since: Cell<u64>,
}

impl Metrics {
    pub(super) fn new(told: &Told) -> Result<Self, (&'static str, String)> {
        let Told { port, path, scheme } = told;
        let path = path.as_deref().unwrap_or("/metrics");
        let scheme = scheme.as_deref().unwrap_or("http");
        Ok(Self {
            is_tls: match scheme.to_ascii_lowercase().as_str() {
                "http" => false,
                "https" => true,
                _ => return Err(("scheme", format!("`{scheme}` is neither http nor https"))),
            },
            port: port.get(),
            path: fetch::path(path).ok_or_else(|| ("path", "no path".to_owned()))?,
            failures: Cell::new(0),
            clashes: Cell::new(0),
            of_failures: Complaints::default(),
            of_clashes: Complaints::default(),
            place: Semaphore::new(1),
        })
    }

    /// `own`, and what the application has; without that, if it does not answer well.
    pub(super) async fn merge(&self, own: String, dialer: &Dialer, asked: Asked<'_>) -> String {
        let timeout = patience(asked);
        let read = tokio::time::timeout(timeout, self.read(&own, dialer, asked)).await;
        let read = read.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
        let mut text = own;
        let app = match read {
            Ok(adopted) => {
                if let Some(first) = adopted.left_out.first() {
                    self.clashes
                        .set(self.clashes.get() + adopted.left_out.len() as u64);
                    self.of_clashes.tell(&format!(
                        "metrics of the application that the proxy has too are left out: {first} and {} more",
                        adopted.left_out.len() - 1
                    ));
                }
                adopted.text
            }
            Err(why) => {
                self.failures.set(self.failures.get() + 1);
                let (scheme, port) = (if self.is_tls { "https" } else { "http" }, self.port);
                self.of_failures.tell(&format!(
                    "no metrics of the application ({scheme}, port {port}, {}): {why}",
                    self.path
                ));
                String::new()
            }
        };
        for (name, count) in [
            ("scrape_failures", &self.failures),
            ("families_left_out", &self.clashes),
        ] {
            let name = format!("outrigger_app_metrics_{name}_total");
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "# TYPE {name} counter\n{name} {}", count.get());
        }
        text.push_str(&app);
        text
    }

    async fn read(
        &self,
        own: &str,
        dialer: &Dialer,
        asked: Asked<'_>,
    ) -> Result<exposition::Adopted, String> {
        let _place = self
            .place
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        for name in [
            header::USER_AGENT,
            header::AUTHORIZATION,
            header::HeaderName::from_static(SCRAPE_TIMEOUT),
        ] {
            if let Some(value) = asked.header(name.as_str()) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(header::ACCEPT, ACCEPT);
        let get = Get {
            url: Url {
                is_tls: self.is_tls,
                host: asked.host().to_owned(),
                port: self.port,
                path: self.path.clone(),
            },
            host: None,
            headers,
            keep: LARGEST,
        };
        let answer = fetch::get(dialer, &get).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("answered with {}", answer.status.as_u16()));
        }
        if !answer.is_whole {
            return Err(format!("more than {} MiB", LARGEST >> 20));
        }
        if let Some(coding) = answer.headers.get(header::CONTENT_ENCODING)
            && coding != "identity"
        {
            return Err(format!(
                "content-encoding {coding:?}, which was not asked for"
            ));
        }
        let format = format(&answer.headers)?;
        let text = std::str::from_utf8(&answer.body).map_err(|error| error.to_string())?;
        exposition::adopt(text, format, own)
    }
}

/// How long the application may take, so that our own metrics are there in time.
fn patience(asked: Asked<'_>) -> Duration {
    asked
        .header(SCRAPE_TIMEOUT)
        .and_then(|seconds| seconds.to_str().ok()?.parse::<f64>().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * 0.9).ok())
        .map_or(TIMEOUT, |timeout| timeout.min(LONGEST))
}

fn format(headers: &HeaderMap) -> Result<Format, String> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Format::Text);
    };
    let kind = kind.to_str().unwrap_or_default();
    let main = kind.split(';').next().unwrap_or_default().trim();
    match main.to_ascii_lowercase().as_str() {
        "text/plain" | "" => Ok(Format::Text),
        "application/openmetrics-text" => Ok(Format::OpenMetrics),
        _ => Err(format!("content-type `{kind}` cannot be merged")),
    }
}

impl Complaints {
    fn tell(&self, what: &str) {
        let last = self.last.get();
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            self.since.set(self.since.get() + 1);
            return;
        }
        self.last.set(Some(Instant::now()));
        let not_logged = self.since.take();
        tracing::warn!(not_logged, "{what}");
    }
}
