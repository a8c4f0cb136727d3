use super::{
    render::{Filter, HistogramMode, KindFilter},
    *,
};

#[test]
fn workers_add_up() {
    let registry = Registry::new(3);
    let scope = registry.scope("cluster.x");
    let (counter, gauge) = (scope.counter("rq"), scope.gauge("active"));
    let histogram = scope.histogram("time", Unit::Milliseconds);
    std::thread::scope(|threads| {
        // 0 and 9 share the main thread's slot.
        for index in [0, 1, 2, 3, 9] {
            let (counter, gauge, histogram) = (counter.clone(), gauge.clone(), histogram.clone());
            threads.spawn(move || {
                set_worker(index);
                for value in 0..1000 {
                    counter.inc();
                    gauge.inc();
                    gauge.dec();
                    histogram.record(value);
                }
                gauge.add(2);
            });
        }
    });
    assert_eq!(counter.value(), 5000);
    assert_eq!(gauge.value(), 10);
    let sample = registry.snapshot().pop().unwrap();
    assert_eq!(sample.name(), "cluster.x.time");
    assert_eq!(sample.value(), 5000);
}

#[test]
fn a_gauge_may_fall_on_another_worker() {
    let registry = Registry::new(2);
    let gauge = registry.scope("").gauge("active");
    let on = |index, change: i64| {
        let gauge = gauge.clone();
        let thread = std::thread::spawn(move || {
            set_worker(index);
            gauge.add(change);
        });
        thread.join().unwrap();
    };
    on(1, 5);
    on(2, -3);
    assert_eq!(gauge.value(), 2);
    on(2, -9);
    assert_eq!(gauge.value(), 0, "never below zero");
}

#[test]
fn the_same_name_is_the_same_metric_however_it_is_split() {
    let registry = Registry::new(1);
    let first = registry.scope("a").counter("b.c");
    let second = registry.scope("a").scope("b").counter("c");
    first.inc();
    second.inc();
    assert_eq!(first.value(), 2);
    assert_eq!(registry.snapshot().len(), 1);
}

#[test]
fn a_metric_goes_with_its_last_handle_and_its_slot_is_used_again() {
    let registry = Registry::new(1);
    let scope = registry.scope("cluster.x");
    let first = scope.counter("n");
    let second = first.clone();
    first.add(7);
    drop(first);
    assert_eq!(scope.counter("n").value(), 7);
    drop(second);
    assert!(registry.snapshot().is_empty());
    let again: Vec<Counter> = (0..200).map(|n| scope.counter(&n.to_string())).collect();
    assert!(again.iter().all(|counter| counter.value() == 0));
    assert_eq!(registry.snapshot().len(), 200);
    drop(again);
    let state = registry.0.lock();
    assert!(state.names.is_empty() && state.metrics.is_empty());
    assert_eq!(state.free.len() % BLOCK, 0);
    assert!(state.free.len() <= 4 * BLOCK);
}

#[test]
fn resetting_leaves_gauges() {
    let registry = Registry::new(1);
    let scope = registry.scope("x");
    let (counter, gauge) = (scope.counter("c"), scope.gauge("g"));
    let histogram = scope.histogram("h", Unit::Bytes);
    counter.inc();
    gauge.set(3);
    histogram.record(1);
    registry.reset_counters();
    assert_eq!((counter.value(), gauge.value()), (0, 3));
    assert_eq!(registry.snapshot()[2].value(), 0);
}

/// Quantiles and sums as Envoy 1.40 printed them for the same values.
#[test]
fn quantiles_are_envoys() {
    let registry = Registry::new(0);
    let histogram = registry.scope("").histogram("h", Unit::Unspecified);
    (0..47).for_each(|_| histogram.record(1));
    let text = render::text(
        &registry.snapshot(),
        &Filter::default(),
        HistogramMode::Summary,
    );
    assert_eq!(
        text,
        "h: P0(nan,1.0020833333333334) P25(nan,1.025) P50(nan,1.05) P75(nan,1.075) \
         P90(nan,1.0895833333333333) P95(nan,1.09375) P99(nan,1.0979166666666667) \
         P99.5(nan,1.0979166666666667) P99.9(nan,1.0979166666666667) P100(nan,1.0979166666666667)\n"
    );
    let (summary, _) = registry.snapshot()[0].histogram().unwrap();
    assert!((summary.sum() - 49.238_095_238_095_24).abs() < 1e-9);

    registry.flush();
    let other = registry.scope("").histogram("one", Unit::Unspecified);
    other.record(59_123);
    let samples = registry.snapshot();
    let text = render::text(&samples, &Filter::default(), HistogramMode::Summary);
    assert!(
        text.contains("h: P0(1.0020833333333334,1.0020833333333334)"),
        "{text}"
    );
    assert!(text.contains("one: P0(nan,59500)"), "{text}");
    registry.flush();
    let text = render::text(
        &registry.snapshot(),
        &Filter::default(),
        HistogramMode::Summary,
    );
    assert!(text.contains("h: P0(nan,1.0020833333333334)"), "{text}");
}

#[test]
fn every_number_has_a_bucket_that_holds_it() {
    for value in [
        0,
        1,
        9,
        10,
        11,
        99,
        100,
        12_345,
        u64::from(u32::MAX),
        u64::MAX,
    ] {
        let registry = Registry::new(0);
        let histogram = registry.scope("").histogram("h", Unit::Unspecified);
        histogram.record(value);
        let (summary, _) = registry.snapshot()[0].histogram().unwrap();
        let (low, width, count) = summary.buckets().next().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "compared roughly")]
        let value = value as f64;
        assert!(
            low <= value * 1.000_001 && value <= low + width,
            "{value}: {low} {width}"
        );
        assert_eq!(count, 1);
    }
}

#[test]
fn prometheus_text_is_envoys() {
    let registry = Registry::new(0);
    let cluster = registry.scope("cluster").scope("a.b");
    let listener = registry.scope("listener.127.0.0.1_80");
    let manager = registry.scope("http.in");
    let handles = [
        cluster.counter("upstream_rq_200"),
        cluster.counter("upstream_rq_2xx"),
        cluster.scope("external").counter("upstream_rq_503"),
        manager.counter("downstream_rq_2xx"),
        manager.scope("tracing").counter("random_sampling"),
        manager.scope("rds.my.routes").counter("update_success"),
        listener.scope("http.in").counter("downstream_rq_completed"),
        registry
            .scope("listener.127.0.0.1_81.http.up")
            .counter("downstream_rq_completed"),
        listener.scope("worker_0").counter("downstream_cx_total"),
        registry
            .scope("listener.admin")
            .counter("downstream_cx_total"),
        registry.scope("cluster_manager").counter("cluster_added"),
    ];
    handles.iter().for_each(Counter::inc);
    let _gauge = cluster.scope("circuit_breakers.default").gauge("cx_open");
    let histogram = manager.histogram("downstream_rq_time", Unit::Milliseconds);
    histogram.record(7);
    let text = render::prometheus(&registry.snapshot(), &Filter::default());
    let expected = [
        "# TYPE envoy_cluster_external_upstream_rq counter",
        r#"envoy_cluster_external_upstream_rq{envoy_response_code="503",envoy_cluster_name="a.b"} 1"#,
        "# TYPE envoy_cluster_manager_cluster_added counter",
        "envoy_cluster_manager_cluster_added{} 1",
        "# TYPE envoy_cluster_upstream_rq counter",
        r#"envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="a.b"} 1"#,
        "# TYPE envoy_cluster_upstream_rq_xx counter",
        r#"envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="a.b"} 1"#,
        "# TYPE envoy_http_downstream_rq_xx counter",
        r#"envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="in"} 1"#,
        "# TYPE envoy_http_rds_update_success counter",
        r#"envoy_http_rds_update_success{envoy_rds_route_config="my.routes",envoy_http_conn_manager_prefix="in"} 1"#,
        "# TYPE envoy_http_tracing_random_sampling counter",
        r#"envoy_http_tracing_random_sampling{envoy_http_conn_manager_prefix="in"} 1"#,
        "# TYPE envoy_listener_admin_downstream_cx_total counter",
        "envoy_listener_admin_downstream_cx_total{} 1",
        "# TYPE envoy_listener_http_downstream_rq_completed counter",
        r#"envoy_listener_http_downstream_rq_completed{envoy_http_conn_manager_prefix="in",envoy_listener_address="127.0.0.1_80"} 1"#,
        r#"envoy_listener_http_downstream_rq_completed{envoy_http_conn_manager_prefix="up",envoy_listener_address="127.0.0.1_81"} 1"#,
        "# TYPE envoy_listener_worker_downstream_cx_total counter",
        r#"envoy_listener_worker_downstream_cx_total{envoy_worker_id="0",envoy_listener_address="127.0.0.1_80"} 1"#,
        "# TYPE envoy_cluster_circuit_breakers_default_cx_open gauge",
        r#"envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="a.b"} 0"#,
        "# TYPE envoy_http_downstream_rq_time histogram",
        r#"envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="in",le="0.5"} 0"#,
    ];
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..expected.len()], expected);
    let ten =
        r#"envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="in",le="10"} 1"#;
    assert!(lines.contains(&ten));
    let last = r#"envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix="in"} 1"#;
    assert_eq!(lines.last(), Some(&last));
}

#[test]
fn filters_choose() {
    let registry = Registry::new(0);
    let scope = registry.scope("s");
    let used = scope.counter("used");
    used.inc();
    let (_unused, _gauge) = (scope.counter("unused"), scope.gauge("gauge"));
    let _histogram = scope.histogram("time", Unit::Bytes);
    let show = |filter: Filter| render::text(&registry.snapshot(), &filter, HistogramMode::Summary);
    assert_eq!(
        show(Filter::default()),
        "s.gauge: 0\ns.unused: 0\ns.used: 1\ns.time: No recorded values\n"
    );
    let regex = || regex::Regex::new("used$").ok();
    let filter = Filter {
        regex: regex(),
        ..Filter::default()
    };
    assert_eq!(show(filter), "s.unused: 0\ns.used: 1\n");
    let filter = Filter {
        regex: regex(),
        is_inverted: true,
        ..Filter::default()
    };
    assert_eq!(show(filter), "s.gauge: 0\ns.time: No recorded values\n");
    assert_eq!(
        show(Filter {
            used_only: true,
            ..Filter::default()
        }),
        "s.used: 1\n"
    );
    let filter = Filter {
        kind: Some(KindFilter::Gauges),
        ..Filter::default()
    };
    assert_eq!(show(filter), "s.gauge: 0\n");
    let json = render::json(&registry.snapshot(), &Filter::default());
    assert_eq!(
        json["stats"][2],
        serde_json::json!({"name": "s.used", "value": 1})
    );
    let histograms = &json["stats"][3]["histograms"];
    assert_eq!(
        histograms["supported_quantiles"][7],
        serde_json::json!(99.5)
    );
    assert_eq!(histograms["computed_quantiles"][0]["name"], "s.time");
}

/// A sidecar with 200 clusters must not pay for statistics by the megabyte.
#[test]
fn metrics_are_small() {
    assert_eq!(size_of::<Counter>(), 8);
    assert!(size_of::<Metric>() <= 88, "{}", size_of::<Metric>());
    // Per worker: eight bytes in a packed block.
    assert_eq!(size_of::<Block>(), BLOCK * 8);
}
