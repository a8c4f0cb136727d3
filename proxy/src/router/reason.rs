//! Our own answers to requests that got none from upstream, with the rule, object and limit that say
//! why.

use http::{StatusCode, request::Parts};

use super::{
    Match, choice,
    failure::{self, Ended, Told},
    timeout::Expired,
};
use crate::{
    config::route::Forward,
    http::{LocalReply, StreamCx},
    telemetry::stream_info::ResponseFlags,
    upstream::{Cluster, pool::Failure},
};

pub(super) fn cluster_not_found(
    cx: &StreamCx,
    matched: &Match,
    action: &Forward,
    parts: &Parts,
) -> LocalReply {
    cx.hcm().router_stats.no_cluster.inc();
    let name = choice::with_name(cx, matched, action, parts, |name| {
        String::from_utf8_lossy(name).into_owned()
    });
    LocalReply::new(action.cluster_not_found_status, "", "cluster_not_found")
        .with_flags(ResponseFlags::NO_CLUSTER_FOUND)
        .with_reason(format!(
            "no cluster '{}' ({})",
            name.unwrap_or_default(),
            matched.route.origin
        ))
}

pub(super) fn no_healthy_upstream(matched: &Match, cluster: &Cluster) -> LocalReply {
    let hosts = cluster.hosts.load().hosts.len();
    let name = &cluster.config.name;
    no_host(
        matched,
        &format!("no healthy host of {hosts} in cluster {name}"),
    )
}

/// The answer to a request that no host can get.
pub(super) fn no_host(matched: &Match, why: &str) -> LocalReply {
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no healthy upstream",
        "no_healthy_upstream",
    )
    .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM)
    .with_reason(format!("{why} ({})", matched.route.origin))
}

/// Another protocol is asked for, and the cluster's hosts speak one that connections do not leave.
pub(super) fn no_upgrade(matched: &Match, cluster: &Cluster) -> LocalReply {
    LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed").with_reason(format!(
        "no upgrade to hosts that speak HTTP/2, as in cluster {} ({})",
        cluster.config.name, matched.route.origin
    ))
}

/// A host went on in HTTP where another protocol was asked for.
pub(super) fn declined(matched: &Match, cluster: &Cluster, status: StatusCode) -> String {
    format!(
        "a host of cluster {} answered {} to a WebSocket handshake ({})",
        cluster.config.name,
        status.as_u16(),
        matched.route.origin
    )
}

/// The answer to a request whose last try brought no response.
pub(super) fn reply(
    cx: &StreamCx,
    matched: &Match,
    action: &Forward,
    ended: &Ended,
    told: Told,
) -> LocalReply {
    let reply = failure::reply(ended, told);
    let Some(cluster) = &cx.info.upstream.cluster else {
        return reply;
    };
    let mut reason = reason(cx, cluster, action, ended, told);
    let tries = cx.info.upstream.attempts;
    if tries > 1 {
        reason = format!("{reason}; {tries} tries");
    }
    if cx.info.flags.contains(ResponseFlags::UPSTREAM_OVERFLOW) {
        let retries = &cluster.circuit.of(action.priority).retries;
        reason = match retries.has_budget() {
            true => format!("{reason}; circuit-breaker retry_budget"),
            false => format!(
                "{reason}; circuit-breaker max_retries={}",
                retries.configured_max()
            ),
        };
    }
    let origin = &matched.route.origin;
    reply.with_reason(format!("{reason} ({origin})"))
}

fn reason(cx: &StreamCx, cluster: &Cluster, action: &Forward, ended: &Ended, told: Told) -> String {
    let name = &cluster.config.name;
    let object = match &cluster.config.origin {
        Some(origin) => format!("{origin} cluster {name}"),
        None => format!("cluster {name}"),
    };
    let resources = cluster.circuit.of(action.priority);
    let host = cx.info.upstream.host.as_ref();
    let address = host.map_or_else(String::new, |host| host.address.to_string());
    let try_limit = |name: &str, limit: Option<std::time::Duration>| match limit {
        Some(limit) => format!("{name}={}ms of {address}", limit.as_millis()),
        None => format!("{name} of {address}"),
    };
    let policy = action.retry.as_deref();
    match ended {
        Ended::Failed(Failure::Overflow(limit)) => {
            let max = resources.limit(*limit).max();
            format!("circuit-breaker {}={max} {object}", limit.name())
        }
        Ended::NoPool => {
            let max = resources.pools.max();
            format!("circuit-breaker max_connection_pools={max} {object}")
        }
        Ended::Failed(Failure::Connect(failure)) if failure.is_timeout => format!(
            "connect_timeout={}ms to {address} in cluster {name}",
            cluster.config.connect_timeout.as_millis()
        ),
        Ended::Failed(Failure::Connect(failure)) => {
            format!("connecting to {address} in cluster {name}: {failure}")
        }
        Ended::Failed(Failure::Protocol) => {
            format!("{address} in cluster {name} broke the protocol")
        }
        Ended::Failed(Failure::RemoteReset | Failure::RefusedStream) => {
            format!("{address} in cluster {name} reset the stream")
        }
        Ended::Failed(Failure::ConnectionTermination) => {
            format!("{address} in cluster {name} closed the connection without a response")
        }
        Ended::Failed(Failure::Request) => {
            format!("the request's body ended early, for {address} in cluster {name}")
        }
        Ended::Expired(Expired::Route) => {
            let millis = told.timeout.unwrap_or_default().as_millis();
            format!("timeout={millis}ms of the route, cluster {name}")
        }
        Ended::Expired(Expired::Life) => format!("max_stream_duration of cluster {name}"),
        Ended::Expired(Expired::PerTry) => {
            let limit = try_limit("per_try_timeout", policy.and_then(|p| p.per_try_timeout));
            format!("{limit} in cluster {name}")
        }
        Ended::Expired(Expired::PerTryIdle) => {
            let limit = policy.and_then(|policy| policy.per_try_idle_timeout);
            let limit = try_limit("per_try_idle_timeout", limit);
            format!("{limit} in cluster {name}")
        }
    }
}
