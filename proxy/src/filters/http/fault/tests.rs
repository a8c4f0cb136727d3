//! Conversion; what the filter does is shown beside Envoy.

use super::{Abort, Amount};
use crate::filters::http::{Config, testing};

const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

#[test]
fn faults_are_refused_by_path() {
    let found = testing::errors(&format!(
        r#"{{"@type": {FAULT}, delay: {{fixed_delay: 0s}}, abort: {{http_status: 600}},
            response_rate_limit: {{fixed_limit: {{}}}}, headers: [{{name: ""}}], filter_metadata: {{a: b, outrigger.dev: {{origin: 1, x: y}}}}}}"#
    ));
    for expected in [
        "delay.fixed_delay: ",
        "abort.http_status: value must be ",
        "response_rate_limit.fixed_limit.limit_kbps: value must be ",
        "headers[0].name: ",
        "filter_metadata[\"a\"]: not supported",
        "filter_metadata[\"outrigger.dev\"][\"origin\"]: not supported",
        "filter_metadata[\"outrigger.dev\"][\"x\"]: not supported",
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
    let found = testing::route_errors(&format!(
        r#"{{"@type": {FAULT}, delay: {{}}, abort: {{}}}}"#
    ));
    assert!(
        found
            .iter()
            .any(|error| error.starts_with("delay.fault_delay_secifier: ")),
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .any(|error| error.starts_with("abort.error_type: ")),
        "{found:#?}"
    );
}

#[test]
fn faults_are_read() {
    let config = testing::config(&format!(
        r#"{{"@type": {FAULT}, delay: {{header_delay: {{}}}}, upstream_cluster: c, max_active_faults: 3,
            abort: {{grpc_status: 5, percentage: {{numerator: 1, denominator: TEN_THOUSAND}}}},
            filter_metadata: {{outrigger.dev: {{origin: FaultPolicy/shop/p}}}}}}"#
    ));
    let Config::Fault(fault) = config else {
        panic!("{config:?}");
    };
    let (delay, percentage) = fault.delay.unwrap();
    assert_eq!((delay, percentage.numerator), (Amount::Header, 0));
    let (abort, percentage) = fault.abort.unwrap();
    assert_eq!((abort, percentage.denominator), (Abort::Grpc(5), 10_000));
    assert_eq!(fault.body, "fault filter abort");
    assert_eq!(fault.upstream_cluster.as_deref(), Some("c"));
    assert_eq!(fault.max_active_faults, Some(3));
    assert_eq!(fault.origin.as_deref(), Some("FaultPolicy/shop/p"));
    assert!(fault.counts_by_cluster && fault.headers.is_empty());
}
