//! Where requests of ORIGINAL_DST clusters go.

use std::net::SocketAddr;

use http::{HeaderMap, StatusCode};

use super::Match;
use crate::{
    http::{LocalReply, StreamCx},
    telemetry::stream_info::ResponseFlags,
    upstream::{Cluster, Destinations},
};

/// The address that the request was going to: a header says it, or the connection's own does. None if that
/// is ourselves: the request would come back for ever.
pub(super) fn of(cx: &StreamCx, cluster: &Cluster, headers: &HeaderMap) -> Option<SocketAddr> {
    let destinations = cluster.destinations.as_ref()?;
    let address = wanted(cx, destinations, destinations.from_header(headers))?;
    let own = cx.snapshot.own_listener(address, &cx.connection.info);
    if own.is_some() {
        destinations.loops.inc();
    }
    own.is_none().then_some(address)
}

fn wanted(
    cx: &StreamCx,
    destinations: &Destinations,
    header: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let info = &cx.connection.info;
    let address = header.or_else(|| info.is_redirected.then_some(info.local))?;
    Some(destinations.address(address))
}

/// The reply to a request that goes nowhere.
pub(super) fn none(cx: &StreamCx, matched: &Match, cluster: &Cluster) -> LocalReply {
    let info = &cx.connection.info;
    let reason = match cx.snapshot.own_listener(info.local, info) {
        Some(listener) => format!(
            "original destination {} is our own listener '{listener}'",
            info.local
        ),
        None => {
            "the request has no original destination, or it is one of our own listeners".to_owned()
        }
    };
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no healthy upstream",
        "no_healthy_upstream",
    )
    .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM)
    .with_reason(format!(
        "{reason}: cluster {} ({})",
        cluster.config.name, matched.route.origin
    ))
}
