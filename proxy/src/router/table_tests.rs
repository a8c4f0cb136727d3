//! The compiled table against a plain reading of its configuration.

use std::{collections::HashSet, sync::Arc};

use http::{Request, uri::Scheme};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use regex::bytes::Regex;

use super::{
    Match, Table,
    matcher::{View, route_matches},
};
use crate::{
    config::{
        header::HeaderMutations,
        matcher::{HeaderKey, HeaderMatchKind, HeaderMatcher},
        per_filter::PerFilterConfigs,
        route::{
            Action, DirectResponse, PathMatch, Route, RouteConfiguration, RouteMatch,
            TlsRequirement, VirtualHost,
        },
    },
    telemetry::stats::Registry,
};

fn route(name: &str, path: PathMatch, needs_header: bool) -> Arc<Route> {
    let header = HeaderMatcher {
        name: HeaderKey::Name(http::HeaderName::from_static("x-a")),
        kind: HeaderMatchKind::Present(true),
        invert: false,
        treat_missing_as_empty: false,
    };
    Arc::new(Route {
        name: Arc::from(name),
        matches: RouteMatch {
            path,
            headers: if needs_header {
                vec![header]
            } else {
                Vec::new()
            },
            query_parameters: Vec::new(),
            grpc: false,
        },
        action: Action::DirectResponse(DirectResponse {
            status: http::StatusCode::OK,
            body: bytes::Bytes::new(),
        }),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        operation: None,
        propagated_operation: None,
        tracing: None,
        origin: Arc::from(name),
        per_filter: PerFilterConfigs::default(),
    })
}

fn host(name: &str, domains: &[&str], routes: Vec<Arc<Route>>) -> VirtualHost {
    VirtualHost {
        name: Arc::from(name),
        domains: domains.iter().map(|domain| Arc::from(*domain)).collect(),
        routes,
        require_tls: TlsRequirement::None,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        per_filter: PerFilterConfigs::default(),
        include_is_timeout_retry_header: false,
    }
}

fn config(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: Arc::from("r"),
        virtual_hosts,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        internal_only_headers: Vec::new(),
        most_specific_header_mutations_wins: false,
        validate_clusters: false,
        ignore_port_in_host_matching: false,
        max_direct_response_body_size_bytes: 4096,
        ignore_path_parameters_in_path_matching: false,
        per_filter: PerFilterConfigs::default(),
    }
}

fn table(config: RouteConfiguration) -> Arc<Table> {
    Arc::new(Table::compile(Arc::new(config), &Registry::new(1)).unwrap())
}

fn prefix(value: &str) -> PathMatch {
    PathMatch::Prefix {
        value: Arc::from(value),
        case_sensitive: true,
    }
}

fn find(table: &Arc<Table>, host: &str, path: &str) -> Option<Match> {
    let request = Request::builder()
        .uri(path)
        .header("host", host)
        .body(())
        .unwrap();
    table.find(&request.into_parts().0, &Scheme::HTTP, false)
}

fn found_host(table: &Arc<Table>, host: &str) -> Option<String> {
    find(table, host, "/").map(|found| found.virtual_host().name.to_string())
}

#[test]
fn domains_are_tried_in_envoys_order() {
    let any = || vec![route("r", prefix("/"), false)];
    let table = table(config(vec![
        host("default", &["*"], any()),
        host("prefix", &["www.*"], any()),
        host("longer prefix", &["www.foo.*"], any()),
        host("suffix", &["*.com"], any()),
        host("longer suffix", &["*.foo.com", "*-x.foo.com"], any()),
        host("exact", &["www.foo.com", "with.port:80"], any()),
    ]));
    for (name, expected) in [
        ("www.foo.com", "exact"),
        ("WWW.foo.COM", "exact"),
        ("with.port:80", "exact"),
        ("with.port", "default"),
        ("api.foo.com", "longer suffix"),
        ("a-x.foo.com", "longer suffix"),
        (".foo.com", "suffix"),
        ("foo.com", "suffix"),
        ("www.bar.com", "suffix"),
        ("www.foo.org", "longer prefix"),
        ("www.bar.org", "prefix"),
        ("www.", "default"),
        ("else", "default"),
    ] {
        assert_eq!(
            found_host(&table, name).as_deref(),
            Some(expected),
            "{name}"
        );
    }
}

#[test]
fn ports_can_be_ignored() {
    let mut config = config(vec![host(
        "a",
        &["a.example", "[::1]"],
        vec![route("r", prefix("/"), false)],
    )]);
    assert!(found_host(&table(config.clone()), "a.example:80").is_none());
    config.ignore_port_in_host_matching = true;
    let table = table(config);
    for name in ["a.example:80", "a.example", "[::1]:80", "[::1]"] {
        assert!(found_host(&table, name).is_some(), "{name}");
    }
}

#[test]
fn domains_are_unique() {
    let config = config(vec![
        host("a", &["x"], Vec::new()),
        host("b", &["y", "X"], Vec::new()),
    ]);
    let errors = Table::compile(Arc::new(config), &Registry::new(1)).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].path, "virtual_hosts[1].domains[1]");
}

#[test]
fn plain_text_is_sent_to_https_where_tls_is_required() {
    let mut secure = host("a", &["*"], vec![route("r", prefix("/"), false)]);
    secure.require_tls = TlsRequirement::ExternalOnly;
    let table = table(config(vec![secure]));
    let parts = Request::builder()
        .uri("/")
        .header("host", "a")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let action = |scheme: &Scheme, is_internal| {
        table
            .find(&parts, scheme, is_internal)
            .map(|found| found.route.action.clone())
    };
    assert!(matches!(
        action(&Scheme::HTTP, false),
        Some(Action::Redirect(_))
    ));
    assert!(matches!(
        action(&Scheme::HTTP, true),
        Some(Action::DirectResponse(_))
    ));
    assert!(matches!(
        action(&Scheme::HTTPS, false),
        Some(Action::DirectResponse(_))
    ));
}

/// A short path of few letters, so that random routes and requests meet often.
fn random_path(random: &mut SmallRng) -> String {
    let segments = random.random_range(0..4);
    let mut path = String::from("/");
    for segment in 0..segments {
        if segment > 0 {
            path.push('/');
        }
        for _ in 0..random.random_range(0..3) {
            path.push(['a', 'b', 'A'][random.random_range(0..3)]);
        }
    }
    path
}

fn random_match(random: &mut SmallRng) -> PathMatch {
    let value: Arc<str> = Arc::from(random_path(random));
    let case_sensitive = random.random_bool(0.7);
    match random.random_range(0..10) {
        0..4 => PathMatch::Exact {
            value,
            case_sensitive,
        },
        4..7 => PathMatch::Prefix {
            value,
            case_sensitive,
        },
        7..9 => PathMatch::SeparatedPrefix {
            value,
            case_sensitive,
        },
        _ => PathMatch::Regex(Regex::new(r"\A(?:/a.*b)\z").unwrap()),
    }
}

#[test]
fn the_index_finds_what_a_scan_finds() {
    let mut random = SmallRng::seed_from_u64(7);
    let mut kinds = HashSet::new();
    for _ in 0..200 {
        let count = random.random_range(0..60);
        let routes: Vec<Arc<Route>> = (0..count)
            .map(|index| {
                let needs_header = random.random_bool(0.3);
                route(&index.to_string(), random_match(&mut random), needs_header)
            })
            .collect();
        let table = table(config(vec![host("h", &["*"], routes.clone())]));
        for _ in 0..50 {
            let mut request = Request::builder()
                .uri(random_path(&mut random))
                .header("host", "h");
            if random.random_bool(0.5) {
                request = request.header("x-a", "1");
            }
            let parts = request.body(()).unwrap().into_parts().0;
            let view = View::new(&parts, &Scheme::HTTP);
            let scanned = routes
                .iter()
                .find(|route| route_matches(&route.matches, &view));
            let found = table.find(&parts, &Scheme::HTTP, false);
            assert_eq!(
                found.as_ref().map(|found| &found.route.name),
                scanned.map(|route| &route.name),
                "{:?} {:?}",
                parts.uri,
                parts.headers
            );
            kinds.insert(found.map(|found| std::mem::discriminant(&found.route.matches.path)));
        }
    }
    // Every kind of match and a miss were seen.
    assert_eq!(kinds.len(), 5);
}

#[test]
fn deeply_nested_prefixes_are_found_too() {
    let nested = |depth: usize| "/a".repeat(depth);
    let routes = (1..100)
        .rev()
        .map(|depth| route(&depth.to_string(), prefix(&nested(depth)), false));
    let table = table(config(vec![host("h", &["*"], routes.collect())]));
    for depth in [1, 8, 9, 10, 11, 12, 60, 99] {
        let found = find(&table, "h", &format!("{}?q", nested(depth))).unwrap();
        assert_eq!(*found.route.name, *depth.to_string());
    }
}
