//! Proxies steered over aggregated xDS, in both forms: first real Envoy, which proves the fake
//! server and the expectations, then `outrigger-proxy`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_tests::ads::AdsServer;
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::Upstream;
use outrigger_tests::{bad, block_on, client, resources, wait};
use serde_json::{Value, json};

#[test]
fn envoy_state_of_the_world() {
    check(Kind::Envoy, false);
}

#[test]
fn envoy_delta() {
    check(Kind::Envoy, true);
}

#[test]
fn outrigger_state_of_the_world() {
    check(Kind::Outrigger, false);
}

#[test]
fn outrigger_delta() {
    check(Kind::Outrigger, true);
}

fn check(kind: Kind, delta: bool) {
    if let Err(error) = block_on(steer(kind, delta)) {
        panic!("{}: {error:#}", kind.name());
    }
}

/// One life under a control plane: first configuration, changes of each type, a rejection, the
/// server's end.
async fn steer(kind: Kind, delta: bool) -> Result<()> {
    let (a, b) = (Upstream::start("a").await?, Upstream::start("b").await?);
    let ads = AdsServer::start().await?;
    set(
        &ads,
        "Cluster",
        &[("one", cluster("one")), ("two", cluster("two"))],
    )?;
    let (to_a, to_b) = (endpoints("one", &a), endpoints("two", &b));
    set(
        &ads,
        "ClusterLoadAssignment",
        &[("one", to_a), ("two", to_b.clone())],
    )?;
    set(&ads, "Listener", &[("main", listener("main", "routes"))])?;
    set(&ads, "RouteConfiguration", &[("routes", routes("one"))])?;
    let proxy = Proxy::start(kind, &bad::bootstrap(&ads, delta)).await?;
    let address = proxy.listener("main").await?;
    reaches(address, "a").await?;

    // A route changes.
    let nonce = set(&ads, "RouteConfiguration", &[("routes", routes("two"))])?;
    ensure!(
        ads.answer(&nonce).await?.is_none(),
        "the new route is rejected"
    );
    reaches(address, "b").await?;

    // Endpoints move.
    let moved = [("one", endpoints("one", &b)), ("two", endpoints("two", &a))];
    set(&ads, "ClusterLoadAssignment", &moved)?;
    reaches(address, "a").await?;

    // A second listener comes, and goes.
    let listeners = [
        ("main", listener("main", "routes")),
        ("more", listener("more", "routes")),
    ];
    set(&ads, "Listener", &listeners)?;
    reaches(proxy.listener("more").await?, "a").await?;
    set(&ads, "Listener", &listeners[..1])?;
    wait::until("the listener to go", Duration::from_secs(10), async || {
        ensure!(
            !proxy.listeners().await?.contains_key("more"),
            "still there"
        );
        Ok(())
    })
    .await?;
    reaches(address, "a").await?;

    // A rejected change names its resource, and changes nothing.
    let broken = json!({"name": "broken", "type": "EDS"});
    let clusters = [
        ("one", cluster("one")),
        ("two", cluster("two")),
        ("broken", broken),
    ];
    let nonce = set(&ads, "Cluster", &clusters)?;
    let error = ads.answer(&nonce).await?.unwrap_or_default();
    ensure!(
        error.contains("broken"),
        "the rejection does not name the cluster: {error:?}"
    );
    reaches(address, "a").await?;

    // Without a control plane, the last configuration stays.
    drop(ads);
    for _ in 0..5 {
        reaches(address, "a").await?;
    }
    Ok(())
}

/// Waits until requests reach the upstream; none may fail on the way.
async fn reaches(address: SocketAddr, upstream: &str) -> Result<()> {
    wait::until(
        &format!("upstream {upstream}"),
        Duration::from_secs(10),
        async || {
            let reply = client::get(address, "/").await?;
            let text = reply.text();
            ensure!(reply.status == 200, "status {}: {text}", reply.status);
            ensure!(
                text.contains(&format!("\"upstream\":\"{upstream}\"")),
                "{text}"
            );
            Ok(())
        },
    )
    .await
}

fn set(ads: &AdsServer, type_name: &str, named: &[(&str, Value)]) -> Result<String> {
    let convert = |(name, json): &(&str, Value)| {
        Ok(((*name).to_owned(), resources::from_json(type_name, json)?))
    };
    Ok(ads.set(type_name, named.iter().map(convert).collect::<Result<_>>()?))
}

fn cluster(name: &str) -> Value {
    let source = json!({"ads": {}, "resource_api_version": "V3"});
    json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": source}})
}

fn endpoints(cluster: &str, upstream: &Upstream) -> Value {
    let port = upstream.address().port();
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    json!({
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    })
}

fn listener(name: &str, routes: &str) -> Value {
    let types = "type.googleapis.com/envoy.extensions.filters";
    let manager = json!({
        "@type": format!("{types}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "rds": {
            "route_config_name": routes,
            "config_source": {"ads": {}, "resource_api_version": "V3"},
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{types}.http.router.v3.Router")},
        }],
    });
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    })
}

fn routes(cluster: &str) -> Value {
    json!({
        "name": "routes",
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        }],
    })
}
