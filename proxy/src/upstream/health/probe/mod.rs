//! How a host is asked: one connection at a time, kept for the next check where that is wanted.

mod grpc;
mod http;
mod http2;
mod tcp;

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;

use super::session::Verdict;
use crate::{
    config::{
        cluster::Sources,
        header::AppendAction,
        health_check::{CheckHeaders, Checker, HealthCheck},
    },
    telemetry::stats::Counter,
    upstream::{Cluster, Host},
};

/// As Envoy names itself to those whom it checks: they may tell checks from requests by it.
const USER_AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");

/// Asks one host.
#[derive(Debug, Default)]
pub(super) struct Probe {
    to: Option<Target>,
    connection: Connection,
}

/// Whom a probe asks.
#[derive(Debug)]
struct Target {
    address: SocketAddr,
    sources: Sources,
    /// `host` or `:authority`.
    authority: HeaderValue,
    verify_cluster: Counter,
}

/// What is kept between two checks.
#[derive(Debug, Default)]
enum Connection {
    #[default]
    None,
    Http1(http::Connection),
    Http2(http2::Connection),
    Tcp(tokio::net::TcpStream),
}

/// A whole response.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// As much as was asked for.
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// There was no whole answer.
#[derive(Debug)]
struct Broken;

impl Probe {
    /// A probe of `host`.
    pub(super) fn new(config: &HealthCheck, cluster: &Cluster, host: &Host) -> Self {
        let target = &host.health_check;
        let mut address = target.address.unwrap_or(host.address);
        if target.address.is_none() {
            address.set_port(target.port.unwrap_or_else(|| host.address.port()));
        } else if let Some(port) = target.port {
            address.set_port(port);
        }
        let of_cluster = match &config.checker {
            Checker::Http(check) => &check.host,
            Checker::Grpc(check) => &check.authority,
            Checker::Tcp(_) => cluster.name(),
        };
        let authority = [&target.hostname, of_cluster, cluster.name()]
            .into_iter()
            .find(|name| !name.is_empty())
            .and_then(|name| HeaderValue::from_str(name).ok());
        Self {
            to: cluster.health.as_ref().map(|checker| Target {
                address,
                sources: cluster.config.sources.clone(),
                // Names were tried as values when they were read, a cluster's own name was not.
                authority: authority.unwrap_or(HeaderValue::from_static("cluster")),
                verify_cluster: checker.stats.verify_cluster.clone(),
            }),
            connection: Connection::None,
        }
    }

    /// Asks. Dropping the future gives the connection up.
    pub(super) async fn check(&mut self, config: &HealthCheck) -> Verdict {
        let Some(to) = &self.to else {
            return Verdict::Network;
        };
        let kept = std::mem::take(&mut self.connection);
        let checked = match &config.checker {
            Checker::Http(check) if check.is_http2 => http2::check(check, to, kept).await,
            Checker::Http(check) => http::check(check, to, kept).await,
            Checker::Grpc(check) => grpc::check(check, config.timeout, to, kept).await,
            Checker::Tcp(check) => tcp::check(check, to, kept).await,
        };
        match checked {
            Ok((verdict, connection)) => {
                self.connection = connection;
                verdict
            }
            Err(Broken) => Verdict::Network,
        }
    }

    /// Keeps no connection for the next check.
    pub(super) fn close(&mut self) {
        self.connection = Connection::None;
    }
}

/// Changes the headers of a request as configured.
fn apply(changes: &CheckHeaders, headers: &mut HeaderMap) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value, action) in &changes.add {
        let is_there = headers.contains_key(name);
        match action {
            AppendAction::AppendIfExistsOrAdd => {
                headers.append(name, value.clone());
            }
            AppendAction::AddIfAbsent if is_there => {}
            AppendAction::OverwriteIfExists if !is_there => {}
            AppendAction::AddIfAbsent
            | AppendAction::OverwriteIfExistsOrAdd
            | AppendAction::OverwriteIfExists => {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// Whether all `wanted` are in `data`, one behind the other.
fn holds(mut data: &[u8], wanted: &[Bytes]) -> bool {
    wanted.iter().all(|wanted| {
        let found = memchr::memmem::find(data, wanted);
        let rest = found.and_then(|at| data.get(at + wanted.len()..));
        rest.inspect(|rest| data = rest).is_some()
    })
}

/// Whether the peer ends the connection after this answer.
fn closes(headers: &HeaderMap) -> bool {
    headers.get(header::CONNECTION).is_some_and(|value| {
        let value = value.to_str().unwrap_or_default();
        value
            .split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("close"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_found_in_order() {
        let wanted = |texts: &[&'static str]| -> Vec<Bytes> {
            texts
                .iter()
                .map(|text| Bytes::from_static(text.as_bytes()))
                .collect()
        };
        assert!(holds(b"one two three", &wanted(&["one", "three"])));
        assert!(!holds(b"one two three", &wanted(&["three", "one"])));
        assert!(!holds(b"one", &wanted(&["one", "one"])));
        assert!(holds(b"", &[]));
    }
}
