//! Tables: shares, weights, how few keys move, bounded loads. That they are Envoy's is for the parity suite.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::{
    config::load_balancing::HashFunction,
    upstream::{HostSpec, testing},
};

const KEYS: usize = 20_000;

fn ring(consistent: Consistent) -> LbPolicy {
    LbPolicy::RingHash {
        minimum_ring_size: 16_384,
        maximum_ring_size: 8 * 1024 * 1024,
        hash_function: HashFunction::XxHash,
        consistent,
    }
}

fn table(consistent: Consistent) -> LbPolicy {
    LbPolicy::Maglev {
        table_size: 65_537,
        consistent,
    }
}

fn policies() -> [LbPolicy; 3] {
    let LbPolicy::RingHash {
        minimum_ring_size,
        maximum_ring_size,
        consistent,
        ..
    } = ring(Consistent::default())
    else {
        unreachable!()
    };
    [
        ring(Consistent::default()),
        table(Consistent::default()),
        LbPolicy::RingHash {
            minimum_ring_size,
            maximum_ring_size,
            hash_function: HashFunction::MurmurHash2,
            consistent,
        },
    ]
}

fn hosts(weights: &[u32]) -> Vec<Arc<Host>> {
    (0..)
        .zip(weights)
        .map(|(last, weight)| {
            Arc::new(Host::new(&HostSpec {
                weight: *weight,
                ..testing::spec(last)
            }))
        })
        .collect()
}

fn build(policy: &LbPolicy, hosts: &[Arc<Host>]) -> (Table, TableSize) {
    Table::new(policy, members(hosts, None)).unwrap()
}

fn keys() -> Vec<u64> {
    let mut random = SmallRng::seed_from_u64(5);
    (0..KEYS).map(|_| random.random()).collect()
}

/// The last number of the address of each key's host.
fn picks(table: &Table, keys: &[u64]) -> Vec<u8> {
    let last = |host: &Arc<Host>| match host.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    keys.iter()
        .map(|key| last(table.pick(*key, 0, || 0).unwrap()))
        .collect()
}

fn share(picks: &[u8], host: u8) -> f64 {
    picks.iter().filter(|pick| **pick == host).count() as f64 / picks.len() as f64
}

#[test]
fn shares_follow_weights() {
    for policy in policies() {
        let (table, _) = build(&policy, &hosts(&[1, 2, 3, 4]));
        let picks = picks(&table, &keys());
        for host in 0..4_u8 {
            let share = share(&picks, host);
            let wanted = f64::from(host + 1) / 10.0;
            assert!((share - wanted).abs() < 0.03, "{policy:?} {host}: {share}");
        }
    }
}

#[test]
fn a_host_that_goes_moves_its_own_keys_and_few_others() {
    for policy in policies() {
        let mut all = hosts(&[1; 10]);
        let keys = keys();
        let before = picks(&build(&policy, &all).0, &keys);
        all.remove(4);
        let after = picks(&build(&policy, &all).0, &keys);
        assert!(!after.contains(&4));
        let needless = before
            .iter()
            .zip(&after)
            .filter(|(from, to)| **from != 4 && from != to)
            .count();
        // The ring's number of entries per host changes, and places of Maglev's table are taken anew.
        assert!(needless <= KEYS / 10, "{policy:?}: {needless} of {KEYS}");
    }
}

#[test]
fn a_new_host_takes_its_part_and_little_else_moves() {
    for policy in policies() {
        let all = hosts(&[1; 10]);
        let keys = keys();
        let before = picks(&build(&policy, &all[..9]).0, &keys);
        let after = picks(&build(&policy, &all).0, &keys);
        assert!((share(&after, 9) - 0.1).abs() < 0.03);
        let needless = before
            .iter()
            .zip(&after)
            .filter(|(from, to)| **to != 9 && from != to)
            .count();
        // The ring's number of entries per host changes, and places of Maglev's table are taken anew.
        assert!(needless <= KEYS / 10, "{policy:?}: {needless} of {KEYS}");
    }
}

#[test]
fn the_order_of_hosts_does_not_count() {
    for policy in policies() {
        let mut all = hosts(&[1, 1, 1, 1]);
        let keys = keys();
        let before = picks(&build(&policy, &all).0, &keys);
        all.reverse();
        assert_eq!(picks(&build(&policy, &all).0, &keys), before);
    }
}

#[test]
fn sizes_are_kept() {
    let sized = |minimum, maximum| LbPolicy::RingHash {
        minimum_ring_size: minimum,
        maximum_ring_size: maximum,
        hash_function: HashFunction::XxHash,
        consistent: Consistent::default(),
    };
    let size = |policy: &LbPolicy, weights: &[u32]| {
        let (_, size) = build(policy, &hosts(weights));
        (size.size, size.min_per_host, size.max_per_host)
    };
    // Rounded up, so that the lightest host has a whole number of entries.
    assert_eq!(size(&sized(1024, 8192), &[1, 1, 1]), (1026, 342, 342));
    assert_eq!(size(&sized(10, 8192), &[1, 3]), (12, 3, 9));
    assert_eq!(size(&sized(1024, 6), &[1, 1, 1, 1]), (6, 1, 2));
    let (_, maglev) = build(&table(Consistent::default()), &hosts(&[1, 1]));
    assert_eq!(
        (maglev.size, maglev.min_per_host, maglev.max_per_host),
        (65_537, 32_768, 32_769)
    );
    for policy in policies() {
        let (empty, _) = build(&policy, &[]);
        assert!(empty.pick(7, 0, || 0).is_none());
    }
}

#[test]
fn later_attempts_look_elsewhere() {
    for policy in policies() {
        let (table, _) = build(&policy, &hosts(&[1; 8]));
        let moved = keys().into_iter().filter(|key| {
            let at = |attempt| table.pick(*key, attempt, || 0).unwrap().id;
            at(0) != at(1)
        });
        assert!(moved.count() > KEYS * 3 / 4);
    }
}

#[test]
fn hosts_are_known_by_key_then_name_then_address() {
    let named = |last: u8, name: &str, hash_key: Option<&str>| {
        Arc::new(Host::new(&HostSpec {
            hostname: name.into(),
            hash_key: hash_key.map(Into::into),
            ..testing::spec(last)
        }))
    };
    let by_name = Consistent {
        use_hostname: true,
        balance_factor: None,
    };
    let hosts = |offset: u8| {
        vec![
            named(offset, "one", None),
            named(offset + 1, "two", None),
            named(offset + 2, &format!("h{offset}"), Some("three")),
        ]
    };
    let keys = keys();
    let places = |policy: &LbPolicy, offset: u8| -> Vec<u8> {
        let picks = picks(&build(policy, &hosts(offset)).0, &keys);
        picks.iter().map(|last| last - offset).collect()
    };
    assert_eq!(places(&ring(by_name), 1), places(&ring(by_name), 100));
    assert_eq!(places(&table(by_name), 1), places(&table(by_name), 100));
    assert_ne!(
        places(&ring(Consistent::default()), 1),
        places(&ring(Consistent::default()), 100)
    );
}

#[test]
fn localities_come_before_hosts() {
    let all = hosts(&[1, 1, 1, 5]);
    let localities = [
        (3.0, vec![Arc::clone(&all[0])]),
        (1.0, all[1..3].to_vec()),
        (0.0, all[3..].to_vec()),
    ];
    let members = members(&all, Some(&localities));
    let shares: Vec<f64> = members.iter().map(|member| member.share).collect();
    assert_eq!(shares, [0.75, 0.125, 0.125]);
}

#[test]
fn no_host_gets_more_than_its_bound() {
    for policy in [ring as fn(Consistent) -> LbPolicy, table] {
        let policy = policy(Consistent {
            use_hostname: false,
            balance_factor: Some(125),
        });
        let all = hosts(&[1, 1, 1, 1]);
        let (table, _) = build(&policy, &all);
        // One key, whose requests do not end: without a bound all on one host.
        for active in 0..400 {
            let host = table.pick(42, 0, || active).unwrap();
            host.stats.rq_active.fetch_add(1, Relaxed);
        }
        let loads: Vec<u64> = all
            .iter()
            .map(|host| host.stats.rq_active.load(Relaxed))
            .collect();
        assert_eq!(loads.iter().sum::<u64>(), 400);
        assert!(loads.iter().all(|load| *load <= 127), "{loads:?}");
        // An idle cluster: the key's own host again, and always the same.
        for host in &all {
            host.stats.rq_active.store(0, Relaxed);
        }
        let first = table.pick(42, 0, || 0).unwrap().id;
        assert_eq!(table.pick(42, 0, || 0).unwrap().id, first);
    }
}
