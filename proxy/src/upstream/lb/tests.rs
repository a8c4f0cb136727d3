//! Picks of each algorithm that needs no table.

use std::{collections::HashMap, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::{
    config::{
        cluster::{HealthStatus, UpstreamProtocol},
        http_connection_manager::Http1Options,
        load_balancing::SlowStart,
    },
    upstream::testing,
};

fn cluster(policy: LbPolicy, weights: &[u32]) -> Arc<Cluster> {
    let hosts: Vec<(SocketAddr, u32)> = (0_u8..)
        .zip(weights)
        .map(|(index, weight)| (SocketAddr::from(([10, 0, 0, index], 80)), *weight))
        .collect();
    let protocol = UpstreamProtocol::Http1(Http1Options::default());
    let mut config = testing::config(&hosts, protocol);
    config.lb_policy = policy;
    testing::cluster(config)
}

/// How often each host is picked; `note` is called with each pick.
fn picks(cluster: &Cluster, count: usize, note: impl Fn(&Host)) -> Vec<usize> {
    let mut random = SmallRng::seed_from_u64(3);
    let mut balancer = Balancer::default();
    let set = cluster.hosts.load();
    let mut picked: HashMap<SocketAddr, usize> = HashMap::new();
    for _ in 0..count {
        let host = balancer
            .pick(cluster, &set, Key::default(), || random.random(), now)
            .unwrap();
        *picked.entry(host.address).or_default() += 1;
        note(host);
    }
    set.hosts
        .iter()
        .map(|host| picked.get(&host.address).copied().unwrap_or(0))
        .collect()
}

/// Picked as often as the weights say, give or take `tolerance`.
fn assert_shares(picked: &[usize], weights: &[u32], tolerance: f64) {
    let (count, total) = (picked.iter().sum::<usize>(), weights.iter().sum::<u32>());
    for (picked, weight) in picked.iter().zip(weights) {
        let share = *picked as f64 / count as f64;
        let expected = f64::from(*weight) / f64::from(total);
        assert!((share - expected).abs() <= tolerance, "{share} {expected}");
    }
}

#[test]
fn round_robin_takes_turns() {
    let cluster = cluster(LbPolicy::RoundRobin, &[1, 1, 1]);
    assert_eq!(picks(&cluster, 30, |_| {}), [10, 10, 10]);
}

#[test]
fn weighted_round_robin_is_exact_and_without_bursts() {
    let weights = [1, 2, 5];
    let cluster = cluster(LbPolicy::RoundRobin, &weights);
    assert_eq!(picks(&cluster, 800, |_| {}), [100, 200, 500]);
    for rounds in 1..6 {
        let picked = picks(&cluster, rounds * 8, |_| {});
        for (picked, weight) in picked.iter().zip(weights) {
            assert!(
                picked.abs_diff(rounds * weight as usize) <= 1,
                "{picked} {weight}"
            );
        }
    }
}

#[test]
fn random_is_uniform_whatever_the_weights() {
    for weights in [[1, 1, 1], [1, 3, 6]] {
        let cluster = cluster(LbPolicy::Random, &weights);
        assert_shares(&picks(&cluster, 20_000, |_| {}), &[1, 1, 1], 0.02);
    }
}

#[test]
fn a_full_scan_finds_the_least_busy_and_is_fair_among_equals() {
    let policy = LbPolicy::LeastRequest {
        choice_count: None,
        active_request_bias: 1.0,
    };
    let cluster = cluster(policy, &[1, 1, 1, 1]);
    cluster.hosts.load().hosts[1]
        .stats
        .rq_active
        .store(1, Relaxed);
    assert_shares(&picks(&cluster, 9000, |_| {}), &[1, 0, 1, 1], 0.02);
}

#[test]
fn localities_share_by_weight() {
    let mut config = testing::config(&[], UpstreamProtocol::Http1(Http1Options::default()));
    config.lb_options.locality_weighted = true;
    let mut assignment = testing::assignment(&[]);
    let locality = |zone: &str, weight, hosts: &[u8]| {
        let hosts: Vec<(SocketAddr, u32)> = hosts
            .iter()
            .map(|last| (testing::spec(*last).address, 1))
            .collect();
        let mut locality = testing::assignment(&hosts).localities.remove(0);
        locality.locality.zone = zone.into();
        locality.weight = Some(weight);
        locality
    };
    assignment.localities = vec![locality("a", 3, &[1, 2, 3]), locality("b", 1, &[4])];
    config.discovery = crate::config::cluster::Discovery::Static(assignment);
    let cluster = testing::cluster(config);
    assert_eq!(picks(&cluster, 400, |_| {}), [100, 100, 100, 100]);
}

#[test]
fn traffic_fails_in_panic_if_it_is_to() {
    for fails in [false, true] {
        let mut config = testing::config(
            &[(testing::spec(1).address, 1)],
            UpstreamProtocol::Http1(Http1Options::default()),
        );
        config.lb_options.fail_traffic_on_panic = fails;
        if let crate::config::cluster::Discovery::Static(assignment) = &mut config.discovery {
            assignment.localities[0].endpoints[0].health = HealthStatus::Unhealthy;
        }
        let cluster = testing::cluster(config);
        let mut balancer = Balancer::default();
        let set = cluster.hosts.load();
        let picked = balancer.pick(&cluster, &set, Key::default(), || 0, now);
        assert_eq!(picked.is_none(), fails);
        assert_eq!(cluster.stats.lb_healthy_panic.value(), 1);
        assert_eq!(
            cluster.stats.upstream_cx_none_healthy.value(),
            u64::from(fails)
        );
    }
}

#[test]
fn a_new_host_gets_its_part_slowly() {
    let mut cluster_config = testing::config(
        &[(testing::spec(1).address, 1), (testing::spec(2).address, 1)],
        UpstreamProtocol::Http1(Http1Options::default()),
    );
    cluster_config.lb_options.slow_start = Some(SlowStart {
        window: Duration::from_secs(100),
        aggression: 1.0,
        min_weight: 0.1,
    });
    let cluster = testing::cluster(cluster_config);
    let set = cluster.hosts.load();
    // Both are new since now(); the second one is made to be newer.
    let start = now();
    set.hosts[1].balance.begin_again_at(start + 100_000);
    let mut balancer = Balancer::default();
    let mut share = |at: u64| {
        let mut second = 0;
        for _ in 0..1100 {
            let picked = balancer.pick(&cluster, &set, Key::default(), || 0, || at);
            second += usize::from(picked.unwrap().address == set.hosts[1].address);
        }
        second
    };
    assert!(share(start + 100_000).abs_diff(100) <= 2);
    let half_way = share(start + 150_000);
    assert!(half_way.abs_diff(1100 / 3) <= 4, "{half_way}");
    assert!(share(start + 200_000).abs_diff(550) <= 4);
}

#[test]
fn least_request_avoids_busy_hosts() {
    let policy = LbPolicy::LeastRequest {
        choice_count: Some(2),
        active_request_bias: 1.0,
    };
    let cluster = cluster(policy, &[1, 1, 1]);
    cluster.hosts.load().hosts[1]
        .stats
        .rq_active
        .store(100, Relaxed);
    let picked = picks(&cluster, 9000, |_| {});
    // The busy one only wins against itself: one time in nine.
    assert_shares(&picked, &[4, 1, 4], 0.02);
}

#[test]
fn least_request_scales_weights_by_load() {
    let policy = LbPolicy::LeastRequest {
        choice_count: Some(2),
        active_request_bias: 1.0,
    };
    let weights = [1, 3];
    let idle = cluster(policy.clone(), &weights);
    assert_shares(&picks(&idle, 4000, |_| {}), &weights, 0.01);
    let busy = cluster(policy, &weights);
    busy.hosts.load().hosts[1].stats.rq_active.store(2, Relaxed);
    assert_shares(&picks(&busy, 4000, |_| {}), &[1, 1], 0.01);
}

#[test]
fn an_update_starts_over_with_the_new_hosts() {
    let cluster = cluster(LbPolicy::RoundRobin, &[1, 4]);
    let mut balancer = Balancer::default();
    for _ in 0..3 {
        balancer
            .pick(&cluster, &cluster.hosts.load(), Key::default(), || 0, now)
            .unwrap();
    }
    let address = SocketAddr::from(([10, 0, 0, 9], 80));
    cluster.update_hosts(&testing::assignment(&[(address, 1)]));
    let set = cluster.hosts.load();
    assert_eq!(
        balancer
            .pick(&cluster, &set, Key::default(), || 0, now)
            .unwrap()
            .address,
        address
    );
}
