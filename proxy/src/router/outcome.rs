//! What is reported to outlier detection of each try: once when there is a connection, once at its end.
//!
//! Envoy looks at the head of a response alone. A gRPC service says in the trailers whether it failed, so
//! the report of its responses waits for them.

use http::{HeaderMap, StatusCode, response};

use super::{failure::Ended, matcher::is_grpc, timeout::Expired};
use crate::upstream::{Cluster, Host, outlier::Outcome, pool::Failure};

/// A response whose trailers say how it went.
#[derive(Debug)]
pub(super) struct Awaited(StatusCode);

/// The request has a connection.
pub(super) fn connected(cluster: &Cluster, host: &Host) {
    cluster.report(host, Outcome::Connected);
}

/// There was no response.
pub(super) fn ended(cluster: &Cluster, host: &Host, ended: &Ended) {
    match ended {
        Ended::Expired(Expired::Life)
        | Ended::Failed(Failure::Overflow(_) | Failure::Request)
        | Ended::NoPool => {}
        Ended::Expired(Expired::Route | Expired::PerTry | Expired::PerTryIdle) => {
            cluster.report(host, Outcome::LocalTimeout)
        }
        Ended::Failed(_) => cluster.report(host, Outcome::LocalConnectFailed),
    }
}

/// The head of a response came. What is returned goes to [`trailers`] or [`no_trailers`].
pub(super) fn head(
    cluster: &Cluster,
    host: &Host,
    parts: &response::Parts,
    is_end: bool,
) -> Option<Awaited> {
    cluster.outlier.as_ref()?;
    let is_grpc = is_grpc(&parts.headers);
    let outcome = match grpc_status(&parts.headers) {
        Some(status) if is_grpc => Outcome::Grpc(status),
        None if is_grpc && !is_end => return Some(Awaited(parts.status)),
        _ => Outcome::Http(parts.status),
    };
    cluster.report(host, outcome);
    None
}

/// Trailers came.
pub(super) fn trailers(cluster: &Cluster, host: &Host, awaited: &Awaited, trailers: &HeaderMap) {
    let outcome = match grpc_status(trailers) {
        Some(status) => Outcome::Grpc(status),
        None => Outcome::Http(awaited.0),
    };
    cluster.report(host, outcome);
}

/// The response is complete without trailers.
pub(super) fn no_trailers(cluster: &Cluster, host: &Host, awaited: &Awaited) {
    cluster.report(host, Outcome::Http(awaited.0));
}

/// The response broke off.
pub(super) fn broke(cluster: &Cluster, host: &Host) {
    cluster.report(host, Outcome::LocalConnectFailed);
}

/// `grpc-status` in headers or trailers.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
