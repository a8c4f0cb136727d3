//! Which cluster a request goes to: chosen once, when its route is found, so that filters know it too.

use std::sync::Arc;

use http::{HeaderValue, request::Parts};

use super::{
    Match, hash,
    matcher::{View, with_value},
};
use crate::{
    config::{
        matcher::HeaderKey,
        route::{
            Action, ClusterName, ClusterSpecifier, Forward, RandomValue, WeightedCluster,
            WeightedClusters,
        },
    },
    http::StreamCx,
    upstream::lb::hash::xxh64,
};

/// Chooses the cluster of the route that was found, and notes it in the stream's record.
pub fn choose_cluster(cx: &mut StreamCx, parts: &Parts) {
    let Some(mut matched) = cx.matched.take() else {
        return;
    };
    if let Action::Forward(action) = &matched.route.action {
        if let ClusterSpecifier::Weighted(weighted) = &action.cluster {
            matched.place = Some(place(cx, action, weighted, parts));
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

/// Calls `with` with the cluster's name that a header has.
pub(super) fn by_header<R>(
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

/// The place of the weighted cluster that a request goes to.
fn place(cx: &StreamCx, action: &Forward, weighted: &WeightedClusters, parts: &Parts) -> usize {
    let number = match &weighted.random {
        RandomValue::Chance => None,
        RandomValue::Header(key) => header_number(cx, key, parts),
        RandomValue::HashPolicy => hash::hash(&action.hash_policy, cx, parts, None),
        RandomValue::Monotone => {
            let mut cookies = Vec::new();
            let hash = hash::hash(&action.hash_policy, cx, parts, Some(&mut cookies));
            return monotone_place(weighted, hash.unwrap_or_else(|| cx.worker().random()));
        }
    };
    weighted_place(weighted, number.unwrap_or_else(|| cx.worker().random()))
}

/// The number in a header that is there exactly once.
fn header_number(cx: &StreamCx, key: &HeaderKey, parts: &Parts) -> Option<u64> {
    if let HeaderKey::Name(name) = key
        && parts.headers.get_all(name).iter().nth(1).is_some()
    {
        return None;
    }
    by_header(cx, key, parts, |value| {
        std::str::from_utf8(value).ok()?.trim_ascii().parse().ok()
    })?
}

/// The place that wins for a hash: each cluster draws a number by hash and name, and weights decide how
/// much a number is worth (weighted rendezvous). A cluster's number does not depend on the others, so a
/// weight that grows can only make its own cluster win more, and one that shrinks only make it lose.
fn monotone_place(weighted: &WeightedClusters, hash: u64) -> usize {
    let worth = |cluster: &WeightedCluster| {
        let name = match &cluster.cluster {
            ClusterName::Name(name) => name.as_bytes(),
            ClusterName::Header(key) => match key {
                HeaderKey::Name(name) => name.as_str().as_bytes(),
                HeaderKey::Method | HeaderKey::Path | HeaderKey::Authority | HeaderKey::Scheme => {
                    b":"
                }
            },
        };
        // 53 bits of it, in (0, 1).
        let drawn = ((xxh64(name, hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(cluster.weight) / -drawn.ln()
    };
    let worths = weighted.clusters.iter().map(worth).enumerate();
    worths
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map_or(0, |(place, _)| place)
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
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    use super::*;
    use crate::config::{header::HeaderMutations, per_filter::PerFilterConfigs};

    fn split(weights: &[(&str, u32)]) -> WeightedClusters {
        let clusters = weights.iter().map(|(name, weight)| WeightedCluster {
            cluster: ClusterName::Name((*name).into()),
            weight: *weight,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            host_rewrite: None,
            per_filter: PerFilterConfigs::default(),
        });
        WeightedClusters {
            clusters: clusters.collect(),
            total: weights.iter().map(|(_, weight)| weight).sum(),
            random: RandomValue::Monotone,
        }
    }

    /// Where each of the users goes.
    fn places<'a>(weights: &[(&'a str, u32)], users: &[u64]) -> Vec<&'a str> {
        let split = split(weights);
        let place = |user: &u64| weights[monotone_place(&split, *user)].0;
        users.iter().map(place).collect()
    }

    fn users(random: &mut SmallRng, count: usize) -> Vec<u64> {
        (0..count).map(|_| random.random()).collect()
    }

    #[test]
    fn weights_share_the_random_numbers() {
        let weighted = split(&[("a", 1), ("b", 0), ("c", 3)]);
        let places: Vec<usize> = (0..8).map(|n| weighted_place(&weighted, n)).collect();
        assert_eq!(places, [0, 2, 2, 2, 0, 2, 2, 2]);
    }

    #[test]
    fn monotone_shares_are_by_weight_and_order_does_not_count() {
        let mut random = SmallRng::seed_from_u64(11);
        let users = users(&mut random, 40_000);
        let weights = [("a", 50), ("b", 30), ("c", 20), ("d", 0)];
        let first = places(&weights, &users);
        for (name, weight) in weights {
            let share = first.iter().filter(|place| **place == name).count() as f64 / 400.0;
            assert!((share - f64::from(weight)).abs() < 1.0, "{name} {share}");
        }
        let mut other_way = weights;
        other_way.reverse();
        assert_eq!(places(&other_way, &users), first);
    }

    /// Property: whatever the clusters and weights, users move only towards a weight that grows and only
    /// away from one that shrinks.
    #[test]
    fn users_move_only_towards_a_weight_that_grows() {
        const NAMES: [&str; 5] = ["stable", "canary", "blue", "green", "old"];
        let mut random = SmallRng::seed_from_u64(12);
        for _ in 0..300 {
            let count = random.random_range(2..=NAMES.len());
            let mut weights: Vec<(&str, u32)> = NAMES
                .iter()
                .take(count)
                .map(|name| (*name, random.random_range(0..100)))
                .collect();
            weights[0].1 += 1;
            let users = users(&mut random, 300);
            let before = places(&weights, &users);
            let changed = random.random_range(0..count);
            weights[changed].1 += random.random_range(1..100);
            let after = places(&weights, &users);
            for (from, to) in before.iter().zip(&after) {
                assert!(
                    from == to || *to == weights[changed].0,
                    "{weights:?} {from} {to}"
                );
            }
        }
    }

    #[test]
    fn between_two_clusters_exactly_the_difference_moves_and_nobody_back() {
        let mut random = SmallRng::seed_from_u64(13);
        let users = users(&mut random, 20_000);
        let mut on_canary = 0;
        for percent in [5, 10, 20, 50, 80, 100] {
            let weights = [("stable", 100 - percent), ("canary", percent)];
            let before = places(
                &[("stable", 105 - percent), ("canary", percent - 5)],
                &users,
            );
            let after = places(&weights, &users);
            assert!(
                before
                    .iter()
                    .zip(&after)
                    .all(|(from, to)| from == to || *to == "canary")
            );
            let now = after.iter().filter(|place| **place == "canary").count();
            assert!(now >= on_canary);
            assert!(
                (now as f64 / 200.0 - f64::from(percent)).abs() < 1.5,
                "{percent} {now}"
            );
            on_canary = now;
        }
    }
}
