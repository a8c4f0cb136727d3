//! Which cluster a request goes to: chosen once, when its route is found, so that filters know it too.

use std::sync::Arc;

use http::{HeaderValue, request::Parts};

use super::{
    Match,
    matcher::{View, with_value},
};
use crate::{
    config::{
        matcher::HeaderKey,
        route::{Action, ClusterName, ClusterSpecifier, Forward, WeightedClusters},
    },
    http::StreamCx,
};

/// Chooses the cluster of the route that was found, and notes it in the stream's record.
pub fn choose_cluster(cx: &mut StreamCx, parts: &Parts) {
    let Some(mut matched) = cx.matched.take() else {
        return;
    };
    if let Action::Forward(action) = &matched.route.action {
        if let ClusterSpecifier::Weighted(weighted) = &action.cluster {
            matched.place = Some(weighted_place(weighted, cx.worker().random()));
        }
        let find = |name: &[u8]| cx.snapshot.cluster(std::str::from_utf8(name).ok()?);
        let cluster = with_name(cx, &matched, action, parts, find).flatten();
        cx.info.upstream.cluster = cluster.map(Arc::clone);
    }
    cx.matched = Some(matched);
}

/// Calls `with` with the name of the cluster, if there is one.
pub(super) fn with_name<R>(
    cx: &StreamCx,
    matched: &Match,
    action: &Forward,
    parts: &Parts,
    with: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    match &action.cluster {
        ClusterSpecifier::Cluster(name) => Some(with(name.as_bytes())),
        ClusterSpecifier::Header(key) => by_header(cx, key, parts, with),
        ClusterSpecifier::Weighted(weighted) => {
            match &weighted.clusters.get(matched.place?)?.cluster {
                ClusterName::Name(name) => Some(with(name.as_bytes())),
                ClusterName::Header(key) => by_header(cx, key, parts, with),
            }
        }
    }
}

fn by_header<R>(
    cx: &StreamCx,
    key: &HeaderKey,
    parts: &Parts,
    with: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    match key {
        // Of several values the first: joined they would name no cluster.
        HeaderKey::Name(name) => parts.headers.get(name).map(HeaderValue::as_bytes).map(with),
        _ => with_value(key, &View::new(parts, &cx.scheme), |name| name.map(with)),
    }
}

/// The place that a random number falls on, by weight.
fn weighted_place(weighted: &WeightedClusters, random: u64) -> usize {
    let mut point = random % u64::from(weighted.total.max(1));
    for (place, cluster) in weighted.clusters.iter().enumerate() {
        match point.checked_sub(u64::from(cluster.weight)) {
            Some(rest) => point = rest,
            None => return place,
        }
    }
    weighted.clusters.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        header::HeaderMutations, per_filter::PerFilterConfigs, route::WeightedCluster,
    };

    #[test]
    fn weights_share_the_random_numbers() {
        let cluster = |weight| WeightedCluster {
            cluster: ClusterName::Name("c".into()),
            weight,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            host_rewrite: None,
            per_filter: PerFilterConfigs::default(),
        };
        let weighted = WeightedClusters {
            clusters: [1, 0, 3].map(cluster).into(),
            total: 4,
        };
        let places: Vec<usize> = (0..8).map(|n| weighted_place(&weighted, n)).collect();
        assert_eq!(places, [0, 2, 2, 2, 0, 2, 2, 2]);
    }
}
