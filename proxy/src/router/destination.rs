//! Where requests of ORIGINAL_DST clusters go.

use std::net::SocketAddr;

use http::HeaderMap;

use super::{Match, reason};
use crate::{
    http::{LocalReply, StreamCx},
    upstream::Cluster,
};

/// The address that the request was going to: a header says it, or the connection's own does. None if that
/// is ourselves: the request would come back for ever.
pub(super) fn of(cx: &StreamCx, cluster: &Cluster, headers: &HeaderMap) -> Option<SocketAddr> {
    let destinations = cluster.destinations.as_ref()?;
    let info = &cx.connection.info;
    let header = destinations.from_header(headers);
    let address = header.or_else(|| info.is_redirected.then_some(info.local))?;
    let accepted_at = info.real_local.ip();
    cx.snapshot
        .destination(destinations, address, accepted_at)
        .ok()
}

/// The reply to a request that goes nowhere.
pub(super) fn none(cx: &StreamCx, matched: &Match, cluster: &Cluster) -> LocalReply {
    let info = &cx.connection.info;
    let own = cx.snapshot.own_listener(info.local, info.real_local.ip());
    let why = match own {
        Some(listener) => format!(
            "original destination {} is our own listener '{listener}'",
            info.local
        ),
        None => {
            "the request has no original destination, or it is one of our own listeners".to_owned()
        }
    };
    let name = &cluster.config.name;
    reason::no_host(matched, &format!("{why}: cluster {name}"))
}
