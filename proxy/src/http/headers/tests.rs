//! The rules for heads, as tables.

use std::net::Ipv4Addr;

use http::Request;

use super::*;
use crate::worker::testing::TestWorker;

fn config(lines: &str) -> std::sync::Arc<HttpConnectionManager> {
    let yaml = TestWorker::yaml(lines, None);
    let bootstrap = crate::bootstrap::load(&yaml, &crate::bootstrap::Overrides::default()).unwrap();
    let chain = &bootstrap.listeners[0].filter_chains[0];
    let manager = chain.filter.http().unwrap();
    std::sync::Arc::clone(manager)
}

fn head(lines: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::get("/").header("host", "a");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

fn prepare(parts: &mut Parts, config: &HttpConnectionManager) -> Prepared {
    let origin = Origin {
        remote: SocketAddr::new(LOOPBACK, 9),
        local: SocketAddr::new(LOOPBACK, 80),
        own_address: OWN,
        service_cluster: "cluster",
        service_node: "node",
    };
    let seen = Seen::of(&parts.headers);
    prepare_request(parts, &seen, config, &[], &origin, || 7)
}

const CIDRS: &str = "          internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, \
                     prefix_len: 8}, {address_prefix: 127.0.0.0, prefix_len: 8}]}";

#[test]
fn several_lines_of_addresses_become_one() {
    let mut parts = head(&[
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
    ]);
    prepare(&mut parts, &config(""));
    let lines: Vec<_> = parts.headers.get_all(X_FORWARDED_FOR).iter().collect();
    assert_eq!(lines, ["1.1.1.1,2.2.2.2"]);
}

/// Each row as Envoy 1.40 sent it upstream: configuration, `x-forwarded-for` and `x-forwarded-proto`
/// as they came, then `x-forwarded-for`, `x-envoy-external-address`, whether it is internal, and
/// `x-forwarded-proto` as they went.
#[test]
fn the_client_is_found_as_envoy_finds_it() {
    let edge = "          use_remote_address: true";
    let hop = "          use_remote_address: true\n          xff_num_trusted_hops: 1";
    let behind = "          xff_num_trusted_hops: 1";
    let edge_cidrs = format!("{edge}\n{CIDRS}");
    let skip = "          use_remote_address: true\n          skip_xff_append: true";
    for (lines, xff, proto, sent, external, internal, sent_proto) in [
        (edge, "", "", "192.0.2.2", "127.0.0.1", false, "http"),
        (
            edge,
            "10.0.0.1",
            "",
            "10.0.0.1,192.0.2.2",
            "127.0.0.1",
            false,
            "http",
        ),
        (
            edge,
            "1.2.3.4",
            "https",
            "1.2.3.4,192.0.2.2",
            "127.0.0.1",
            false,
            "http",
        ),
        (edge, "zz", "", "zz,192.0.2.2", "127.0.0.1", false, "http"),
        (hop, "", "", "192.0.2.2", "127.0.0.1", false, "http"),
        (
            hop,
            "1.2.3.4, 10.0.0.1",
            "",
            "1.2.3.4, 10.0.0.1,192.0.2.2",
            "10.0.0.1",
            false,
            "http",
        ),
        (
            hop,
            "1.2.3.4",
            "https",
            "1.2.3.4,192.0.2.2",
            "1.2.3.4",
            false,
            "https",
        ),
        (hop, "zz", "", "zz,192.0.2.2", "127.0.0.1", false, "http"),
        (behind, "10.0.0.1", "", "10.0.0.1", "9.9.9.9", false, "http"),
        (CIDRS, "", "", "", "9.9.9.9", false, "http"),
        (CIDRS, "10.0.0.1", "", "10.0.0.1", "9.9.9.9", true, "http"),
        (
            CIDRS,
            "1.2.3.4, 10.0.0.1",
            "",
            "1.2.3.4, 10.0.0.1",
            "9.9.9.9",
            false,
            "http",
        ),
        (
            CIDRS, "1.2.3.4", "https", "1.2.3.4", "9.9.9.9", false, "https",
        ),
        (&edge_cidrs, "", "", "192.0.2.2", "9.9.9.9", true, "http"),
        (
            &edge_cidrs,
            "10.0.0.1",
            "",
            "10.0.0.1,192.0.2.2",
            "127.0.0.1",
            false,
            "http",
        ),
        (skip, "", "", "", "127.0.0.1", false, "http"),
        (skip, "10.0.0.1", "", "10.0.0.1", "127.0.0.1", false, "http"),
    ] {
        let mut lines_in = vec![("x-envoy-external-address", "9.9.9.9")];
        if !xff.is_empty() {
            lines_in.push(("x-forwarded-for", xff));
        }
        if !proto.is_empty() {
            lines_in.push(("x-forwarded-proto", proto));
        }
        let mut parts = head(&lines_in);
        let prepared = prepare(&mut parts, &config(lines));
        let get = |name: &str| {
            parts
                .headers
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
                .to_owned()
        };
        let case = format!("{lines} {xff:?}");
        assert_eq!(get("x-forwarded-for"), sent, "{case}");
        assert_eq!(get("x-envoy-external-address"), external, "{case}");
        assert_eq!(get("x-envoy-internal") == "true", internal, "{case}");
        assert_eq!(prepared.is_internal, internal, "{case}");
        assert_eq!(get("x-forwarded-proto"), sent_proto, "{case}");
        assert_eq!(prepared.scheme.as_str(), sent_proto, "{case}");
    }
}

#[test]
fn hop_by_hop_headers_stay_here() {
    let mut parts = head(&[
        ("connection", "keep-alive"),
        ("keep-alive", "5"),
        ("proxy-connection", "close"),
        ("te", "trailers, gzip"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("x-bar", "2"),
    ]);
    prepare(&mut parts, &config(""));
    let mut names: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["host", "te", "x-bar", "x-forwarded-proto", "x-request-id"]
    );
    assert_eq!(parts.headers["te"], "trailers");
}

#[test]
fn clients_from_outside_cannot_steer() {
    let steering: Vec<(&'static str, &str)> =
        INTERNAL_ONLY.iter().map(|name| (*name, "1")).collect();
    let mut parts = head(&steering);
    prepare(&mut parts, &config(""));
    assert!(
        INTERNAL_ONLY
            .iter()
            .all(|name| !parts.headers.contains_key(*name))
    );
    let mut parts = head(&[&steering[..], &[("x-forwarded-for", "10.0.0.1")]].concat());
    prepare(&mut parts, &config(CIDRS));
    assert!(
        INTERNAL_ONLY
            .iter()
            .all(|name| parts.headers.contains_key(*name))
    );
}

#[test]
fn request_ids_are_made_kept_and_replaced() {
    let id = |lines: &str, given: Option<&str>| {
        let mut parts = head(given.map(|id| ("x-request-id", id)).as_slice());
        prepare(&mut parts, &config(lines));
        parts
            .headers
            .get("x-request-id")
            .map(|id| id.to_str().unwrap().to_owned())
    };
    assert_eq!(id("", None).unwrap().len(), 36);
    assert_eq!(id("", Some("abc")).unwrap(), "abc");
    let edge = "          use_remote_address: true";
    assert_eq!(id(edge, Some("abc")).unwrap().len(), 36);
    let keep = "          use_remote_address: true\n          preserve_external_request_id: true";
    assert_eq!(id(keep, Some("abc")).unwrap(), "abc");
    assert_eq!(id("          generate_request_id: false", None), None);
}

#[test]
fn via_and_user_agent_are_added() {
    let lines = "          via: here\n          add_user_agent: true\n          append_x_forwarded_port: true";
    let mut parts = head(&[("via", "there")]);
    prepare(&mut parts, &config(lines));
    assert_eq!(parts.headers["via"], "there, here");
    assert_eq!(parts.headers["user-agent"], "cluster");
    assert_eq!(
        parts.headers["x-envoy-downstream-service-cluster"],
        "cluster"
    );
    assert_eq!(parts.headers["x-envoy-downstream-service-node"], "node");
    assert_eq!(parts.headers["x-forwarded-port"], "80");
}

#[test]
fn ports_and_dots_are_stripped_from_hosts() {
    let any = "          strip_any_host_port: true\n          strip_trailing_host_dot: true";
    let matching = "          strip_matching_host_port: true";
    for (lines, host, expected) in [
        (any, "a:80", "a"),
        (any, "a:80.", "a"),
        (any, "a.:80", "a"),
        (any, "a.", "a"),
        (any, "[::1]:80", "[::1]"),
        (any, "[::1]", "[::1]"),
        (matching, "a:80", "a"),
        (matching, "a:81", "a:81"),
        ("", "a:80.", "a:80."),
    ] {
        let mut parts = head(&[]);
        parts
            .headers
            .insert(header::HOST, HeaderValue::from_static(host));
        let seen = Seen::of(&parts.headers);
        check_request(
            &mut parts,
            &seen,
            &config(lines),
            SocketAddr::new(LOOPBACK, 80),
        )
        .unwrap();
        assert_eq!(parts.headers["host"], expected, "{lines} {host}");
    }
}

#[test]
fn responses_are_finished_by_configuration() {
    let finish = |lines: &str, server: Option<&'static str>, closes| {
        let mut headers = HeaderMap::new();
        headers.insert("keep-alive", HeaderValue::from_static("5"));
        headers.insert("connection", HeaderValue::from_static("keep-alive"));
        if let Some(server) = server {
            headers.insert("server", HeaderValue::from_static(server));
        }
        let cx = ResponseCx {
            date: HeaderValue::from_static("now"),
            request_id: Some(&HeaderValue::from_static("id")),
            is_local: false,
            closes,
            keeps_upgrade: false,
            switches: false,
        };
        finish_response(&mut headers, &config(lines), cx);
        headers
    };
    let plain = finish("", Some("x"), true);
    assert_eq!(plain["server"], "envoy");
    assert_eq!(plain["date"], "now");
    assert_eq!(plain["connection"], "close");
    assert_eq!(plain.len(), 3);
    let absent = "          server_header_transformation: APPEND_IF_ABSENT";
    assert_eq!(finish(absent, Some("x"), false)["server"], "x");
    assert_eq!(finish(absent, None, false)["server"], "envoy");
    let pass = "          server_header_transformation: PASS_THROUGH";
    assert!(!finish(pass, None, false).contains_key("server"));
    let id = "          always_set_request_id_in_response: true";
    assert_eq!(finish(id, None, false)["x-request-id"], "id");
}
