//! Counts what tests allocate, and shows that the decisions of a request allocate nothing: finding its
//! route, picking its host, and counting it against the circuit breakers.

#![allow(
    unsafe_code,
    reason = "an allocator can't be written otherwise; it only counts and passes on"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use http::{Request, uri::Scheme};

use crate::{
    bootstrap::{Overrides, load},
    config::{http_connection_manager::RouteSource, route::Priority, route::RouteConfiguration},
    router::Table,
    telemetry::stats::Registry,
    upstream::{Cluster, lb::Key as PickKey, pool::Pools},
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

fn note() {
    // A thread that is ending has nothing to count for.
    ALLOCATIONS
        .try_with(|count| count.set(count.get() + 1))
        .unwrap_or_default();
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// How often this thread allocates in `act`.
pub(crate) fn during<T>(act: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = act();
    (result, ALLOCATIONS.get() - before)
}

/// 20 virtual hosts of 10 routes, with header conditions and weighted clusters.
fn routes() -> Arc<RouteConfiguration> {
    let mut hosts = String::new();
    for host in 0..20 {
        hosts.push_str(&format!(
            "            - name: h{host}\n              domains: [\"svc{host}.shop\", \"*.svc{host}.shop\"]\n              routes:\n"
        ));
        for route in 0..10 {
            hosts.push_str(&format!(
                "              - match: {{prefix: /api/r{route}/, headers: [{{name: x-tier, string_match: {{exact: gold}}}}, {{name: x-build, string_match: {{safe_regex: {{regex: \"v[0-9]+\"}}}}}}], query_parameters: [{{name: page, present_match: true}}]}}\n                route: {{weighted_clusters: {{clusters: [{{name: a, weight: 90}}, {{name: b, weight: 10}}]}}}}\n"
            ));
        }
    }
    let text = format!(
        "static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            name: main
            virtual_hosts:
{hosts}
  clusters:
  - {{name: a, type: STATIC, load_assignment: {{cluster_name: a}}}}
  - {{name: b, type: STATIC, load_assignment: {{cluster_name: b}}}}
"
    );
    let bootstrap = load(&text, &Overrides::default()).unwrap();
    let manager = bootstrap.listeners[0].filter_chains[0]
        .filter
        .http()
        .unwrap();
    match &manager.routes {
        RouteSource::Inline(routes) => Arc::clone(routes),
        RouteSource::Rds { .. } => panic!("inline routes"),
    }
}

#[test]
fn finding_a_route_allocates_nothing() {
    let table = Arc::new(Table::compile(routes(), &Registry::new(1)).unwrap());
    let request = |host: &str, path: &str| {
        Request::get(path)
            .header("host", host)
            .header("x-tier", "gold")
            .header("x-build", "v17")
            .body(())
            .unwrap()
            .into_parts()
            .0
    };
    let requests = [
        request("svc0.shop", "/api/r0/items?page=1"),
        request("svc19.shop", "/api/r9/items?page=1"),
        request("a.b.svc7.shop", "/api/r5/?x=1&page=2"),
        request("svc3.shop", "/nowhere?page=1"),
        request("elsewhere", "/api/r5/?page=2"),
    ];
    // The first match with an expression makes that expression's scratch space.
    let found: Vec<bool> = requests
        .iter()
        .map(|parts| table.find(parts, &Scheme::HTTP, false).is_some())
        .collect();
    assert_eq!(found, [true, true, true, false, false]);
    let ((), count) = during(|| {
        for parts in &requests {
            drop(table.find(parts, &Scheme::HTTP, false));
        }
    });
    assert_eq!(count, 0);
}

/// A cluster of ten weighted hosts under a policy.
fn cluster(policy: &str) -> Arc<Cluster> {
    let endpoints: Vec<String> = (1..=10)
        .map(|host| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 10.0.0.{host}, port_value: 80}}}}}}, load_balancing_weight: {}}}",
                1 + host % 3
            )
        })
        .collect();
    let text = format!(
        "static_resources:
  clusters:
  - name: a
    type: STATIC
    {policy}
    load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{}]}}]}}
",
        endpoints.join(", ")
    );
    let bootstrap = load(&text, &Overrides::default()).unwrap();
    Cluster::new(Arc::clone(&bootstrap.clusters[0]), &Registry::new(1), None)
}

#[test]
fn picking_a_host_allocates_nothing() {
    let ewma = "load_balancing_policy: {policies: [{typed_extension_config: {name: e, typed_config: {\"@type\": type.googleapis.com/outrigger.extensions.load_balancing_policies.peak_ewma.v1alpha1.PeakEwma}}}]}";
    for policy in [
        "lb_policy: ROUND_ROBIN",
        "lb_policy: LEAST_REQUEST",
        "lb_policy: RANDOM",
        "lb_policy: RING_HASH",
        "lb_policy: MAGLEV",
        ewma,
    ] {
        let cluster = cluster(policy);
        let pools = Pools::default();
        let mut number = 0_u64;
        let mut pick = |count: u64| {
            for _ in 0..count {
                number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let key = PickKey {
                    hash: Some(number),
                    ..PickKey::default()
                };
                let host = pools.pick(&cluster, key, || number.rotate_left(17));
                assert!(host.is_some(), "{policy}");
            }
        };
        // A worker makes its schedule of a host set with the first pick.
        pick(1);
        let ((), count) = during(|| pick(100));
        assert_eq!(count, 0, "{policy}");
    }
}

#[test]
fn circuit_breakers_allocate_nothing() {
    let cluster =
        cluster("circuit_breakers: {thresholds: [{max_requests: 2, track_remaining: true}]}");
    let requests = &cluster.circuit.of(Priority::Default).requests;
    let (taken, count) = during(|| {
        let taken = [(); 3].map(|()| requests.try_acquire());
        requests.release();
        requests.release();
        taken
    });
    assert_eq!(taken, [true, true, false]);
    assert_eq!(count, 0);
}
