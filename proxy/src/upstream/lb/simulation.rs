//! A simulation in virtual time: what algorithms make of one slow host.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{Balancer, Key, Sample};
use crate::{
    config::{
        cluster::{LbPolicy, UpstreamProtocol},
        http_connection_manager::Http1Options,
        load_balancing::PeakEwma,
    },
    upstream::{Host, testing},
};

/// Milliseconds between requests.
const INTERVAL: u64 = 2;
const REQUESTS: u64 = 20_000;
/// Before this one, what was learnt counts and not what it cost.
const FROM: u64 = 2000;
const FAST: u64 = 10;
const SLOW: u64 = 200;

/// Latencies of all requests in ascending order, and the share of the slow host.
struct Outcome {
    latencies: Vec<u64>,
    slow: f64,
}

impl Outcome {
    fn p99(&self) -> u64 {
        self.latencies[self.latencies.len() * 99 / 100]
    }
}

/// Requests come at a steady rate to three hosts; the last takes `SLOW` from `slow_from` until `slow_until`
/// and else, like the others, `FAST` (give or take a fifth).
fn run(policy: LbPolicy, slow_from: u64, slow_until: u64) -> Outcome {
    let hosts: Vec<(SocketAddr, u32)> = (1..=3).map(|n| (testing::spec(n).address, 1)).collect();
    let mut config = testing::config(&hosts, UpstreamProtocol::Http1(Http1Options::default()));
    config.lb_policy = policy.clone();
    let cluster = testing::cluster(config);
    let set = cluster.hosts.load();
    let slow = Arc::clone(&set.hosts[2]);
    let mut random = SmallRng::seed_from_u64(7);
    let mut noise = SmallRng::seed_from_u64(8);
    let mut balancer = Balancer::default();
    let start = super::now();
    let mut ends: BinaryHeap<Reverse<(u64, u64, u64)>> = BinaryHeap::new();
    let finish = |id: u64, latency: u64, end: u64| {
        let host: &Arc<Host> = set.hosts.iter().find(|host| host.id == id).unwrap();
        host.stats.rq_active.fetch_sub(1, Relaxed);
        if let LbPolicy::PeakEwma(policy) = &policy {
            let latency = Duration::from_millis(latency);
            host.balance
                .ewma
                .report(policy, latency, Sample::Answer, end);
        }
    };
    let mut latencies = Vec::new();
    let mut on_slow = 0;
    for number in 0..REQUESTS {
        let now = start + number * INTERVAL;
        while let Some(Reverse((end, id, latency))) = ends.peek().copied()
            && end <= now
        {
            ends.pop();
            finish(id, latency, end);
        }
        let host = balancer
            .pick(&cluster, &set, Key::default(), || random.random(), || now)
            .unwrap();
        let is_slow = host.id == slow.id && (slow_from..slow_until).contains(&number);
        let usual = if is_slow { SLOW } else { FAST };
        let latency = usual * noise.random_range(80..=120) / 100;
        host.stats.rq_active.fetch_add(1, Relaxed);
        ends.push(Reverse((now + latency, host.id, latency)));
        if number >= FROM {
            latencies.push(latency);
            on_slow += u64::from(host.id == slow.id);
        }
    }
    let slow = on_slow as f64 / latencies.len() as f64;
    latencies.sort_unstable();
    Outcome { latencies, slow }
}

fn peak_ewma() -> LbPolicy {
    LbPolicy::PeakEwma(PeakEwma {
        decay_time: Duration::from_secs(10),
        default_rtt: Duration::from_millis(30),
        choice_count: 2,
    })
}

#[test]
fn one_slow_host_of_three_does_not_show_in_the_p99_of_peak_ewma() {
    let turns = run(LbPolicy::RoundRobin, 0, REQUESTS);
    let ewma = run(peak_ewma(), 0, REQUESTS);
    assert!((turns.slow - 1.0 / 3.0).abs() < 0.01);
    assert!(turns.p99() >= SLOW * 4 / 5);
    assert!(
        ewma.p99() * 2 <= turns.p99(),
        "{} {} (on the slow host: {})",
        ewma.p99(),
        turns.p99(),
        ewma.slow
    );
    // It is looked at again now and then all the same.
    assert!(ewma.slow > 0.0 && ewma.slow < 0.01, "{}", ewma.slow);
}

#[test]
fn a_host_that_recovers_gets_its_part_again() {
    // Slow for the first 4 s of 40; what is counted begins then.
    let ewma = run(peak_ewma(), 0, FROM);
    assert!(ewma.slow > 0.1, "{}", ewma.slow);
    assert!(ewma.p99() <= FAST * 6 / 5);
}

#[test]
fn equal_hosts_share_evenly() {
    let ewma = run(peak_ewma(), 0, 0);
    assert!((ewma.slow - 1.0 / 3.0).abs() < 0.05, "{}", ewma.slow);
}
