//! A proxy configured by Envoy's Go control plane alone. Envoy itself goes first: it proves the
//! expectations.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::mesh::{GoControlPlane, Load};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::Upstream;
use serde_json::{Value, json};

use crate::check;

#[test]
fn go_steers_envoy_state_of_the_world() {
    check(Kind::Envoy, false, || steer(Kind::Envoy, false));
}

#[test]
fn go_steers_envoy_delta() {
    check(Kind::Envoy, true, || steer(Kind::Envoy, true));
}

#[test]
fn go_steers_outrigger_state_of_the_world() {
    check(Kind::Outrigger, false, || steer(Kind::Outrigger, false));
}

#[test]
fn go_steers_outrigger_delta() {
    check(Kind::Outrigger, true, || steer(Kind::Outrigger, true));
}

/// Weights change, a bad resource comes and goes, the server dies and comes back: not one request
/// fails.
async fn steer(kind: Kind, delta: bool) -> Result<()> {
    let (a, b) = (Upstream::start("a").await?, Upstream::start("b").await?);
    let upstreams = [a.address(), b.address()];
    let mut server = GoControlPlane::start(&resources(upstreams, [90, 10])).await?;
    let proxy = Proxy::start(kind, &bootstrap(server.address(), delta)).await?;
    let load = Load::start(proxy.listener("main").await?, "shop.example");
    near(load.share("b", 400).await?, 0.10)?;
    for kind in [
        "Cluster",
        "ClusterLoadAssignment",
        "Listener",
        "RouteConfiguration",
    ] {
        let answer = server.answer(kind, None).await?;
        ensure!(answer.event == "ack", "{answer:?}");
        let form = if delta { "delta" } else { "sotw" };
        ensure!(answer.form == form, "{answer:?}");
    }

    // Only the routes change, so only they are answered.
    let clusters = server.version("Cluster");
    let routes = server.version("RouteConfiguration");
    server.set(&resources(upstreams, [0, 100])).await?;
    let answer = server
        .answer("RouteConfiguration", routes.as_deref())
        .await?;
    ensure!(answer.event == "ack", "{answer:?}");
    load.next_phase();
    ensure!(
        load.share("b", 200).await? >= 1.0,
        "the old weights are still in use after the ACK"
    );
    ensure!(
        server.version("Cluster") == clusters,
        "clusters were sent again"
    );

    refuse(kind, &server, upstreams).await?;
    load.next_phase();
    ensure!(
        load.share("b", 100).await? >= 1.0,
        "a refused change has an effect"
    );

    // Without the server, the last configuration stays; with it, the next one comes.
    server.set(&resources(upstreams, [0, 100])).await?;
    server.kill().await?;
    load.next_phase();
    ensure!(
        load.share("b", 100).await? >= 1.0,
        "the configuration is lost with the server"
    );
    server.restart().await?;
    if delta {
        // Nothing changed, and the server is told what is there: it has nothing to send.
        let clusters = server.subscription("Cluster").await?;
        ensure!(
            clusters.initial.len() == 2,
            "what is there is not told: {clusters:?}"
        );
        server.subscription("RouteConfiguration").await?;
    } else {
        let answer = server.answer("RouteConfiguration", None).await?;
        ensure!(answer.event == "ack", "{answer:?}");
    }
    let routes = server.version("RouteConfiguration");
    server.set(&resources(upstreams, [50, 50])).await?;
    let answer = server
        .answer("RouteConfiguration", routes.as_deref())
        .await?;
    ensure!(answer.event == "ack", "{answer:?}");
    load.next_phase();
    near(load.share("b", 400).await?, 0.50)?;
    load.check()
}

/// Each bad resource is refused by name; ours also names the path.
async fn refuse(kind: Kind, server: &GoControlPlane, upstreams: [SocketAddr; 2]) -> Result<()> {
    let good = resources(upstreams, [0, 100]);
    let mut bad_route = good.clone();
    *route_of(&mut bad_route)? =
        json!({"match": {"safe_regex": {"regex": "/("}}, "route": {"cluster": "a"}});
    let mut bad_cluster = good.clone();
    bad_cluster.push(json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "broken",
        "type": "EDS",
    }));
    let cases = [
        (
            bad_route,
            "RouteConfiguration",
            "routes",
            "virtual_hosts[0].routes[0].match.safe_regex",
        ),
        (bad_cluster, "Cluster", "broken", "eds_cluster_config"),
    ];
    for (resources, of, name, path) in cases {
        let before = server.version(of);
        server.set(&resources).await?;
        let answer = server.answer(of, before.as_deref()).await?;
        ensure!(answer.event == "nack", "{of} is taken: {answer:?}");
        // Envoy does not name a broken RouteConfiguration.
        let wanted: &[&str] = if kind == Kind::Outrigger {
            &[name, path]
        } else {
            &[]
        };
        for wanted in wanted {
            ensure!(
                answer.error.contains(wanted),
                "{wanted} is not in {:?}",
                answer.error
            );
        }
        server.set(&good).await?;
        // In the state of the world, a refusal tells what is there: nothing is left to send.
        if answer.form == "delta" {
            let answer = server.answer(of, Some(&answer.version)).await?;
            ensure!(
                answer.event == "ack",
                "the good state is not taken back: {answer:?}"
            );
        }
    }
    Ok(())
}

fn near(share: f64, expected: f64) -> Result<()> {
    // Six standard deviations of 400 requests.
    let tolerance = 6.0 * (expected * (1.0 - expected) / 400.0).sqrt();
    ensure!(
        (share - expected).abs() <= tolerance,
        "a share of {share} instead of {expected}"
    );
    Ok(())
}

fn bootstrap(server: SocketAddr, delta: bool) -> String {
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "admin": {"address": address("127.0.0.1:0".parse().expect("an address"))},
        "dynamic_resources": {
            "ads_config": {
                "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "xds",
            "type": "STATIC",
            "typed_extension_protocol_options": {options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": endpoints("xds", server),
        }]},
    })
    .to_string()
}

/// Two clusters, a listener, and the routes that split between them.
fn resources(upstreams: [SocketAddr; 2], weights: [u32; 2]) -> Vec<Value> {
    let named = ["a", "b"].into_iter().zip(upstreams);
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let mut all = Vec::new();
    for (name, upstream) in named {
        all.push(typed(
            "cluster.v3.Cluster",
            json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ads}}),
        ));
        all.push(typed(
            "endpoint.v3.ClusterLoadAssignment",
            endpoints(name, upstream),
        ));
    }
    let filters = "type.googleapis.com/envoy.extensions.filters";
    let manager = json!({
        "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "main",
        "rds": {"route_config_name": "routes", "config_source": ads},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{filters}.http.router.v3.Router")},
        }],
    });
    all.push(typed(
        "listener.v3.Listener",
        json!({
            "name": "main",
            "address": address("127.0.0.1:0".parse().expect("an address")),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }]}],
        }),
    ));
    let clusters: Vec<Value> = ["a", "b"]
        .iter()
        .zip(weights)
        .map(|(name, weight)| json!({"name": name, "weight": weight}))
        .collect();
    all.push(typed(
        "route.v3.RouteConfiguration",
        json!({
            "name": "routes",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                "match": {"prefix": "/"},
                "route": {"weighted_clusters": {"clusters": clusters}},
            }]}],
        }),
    ));
    all
}

fn route_of(resources: &mut [Value]) -> Result<&mut Value> {
    let routes = resources.last_mut().context("the routes come last")?;
    routes
        .pointer_mut("/virtual_hosts/0/routes/0")
        .context("they have a route")
}

fn typed(kind: &str, mut resource: Value) -> Value {
    resource["@type"] = format!("type.googleapis.com/envoy.config.{kind}").into();
    resource
}

fn endpoints(cluster: &str, upstream: SocketAddr) -> Value {
    let endpoint = json!({"endpoint": {"address": address(upstream)}});
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]})
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}
