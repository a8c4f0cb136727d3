//! Each proxy gets what its node needs, and of a change only what changed.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::mesh::{ControlPlane, Sidecar, objects};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::Upstream;
use serde_json::Value;

use crate::run;

#[test]
fn only_what_a_node_needs_is_sent() {
    run(async {
        let (a, b) = (Upstream::start("a").await?, Upstream::start("b").await?);
        let services = [
            objects::front("web"),
            objects::service("a", &[a.address()]),
            objects::service("b", &[b.address()]),
        ];
        let files = [
            ("services.yaml", services.concat()),
            ("web.yaml", objects::split("web", &[("a", 1)])),
        ];
        let control_plane = ControlPlane::start(&files).await?;
        let mut sidecars = [
            Sidecar::new(Kind::Outrigger, true, "all").outbound(),
            Sidecar::new(Kind::Outrigger, true, "web-only")
                .outbound()
                .egress(&["./web"]),
            Sidecar::new(Kind::Outrigger, false, "b-only")
                .outbound()
                .egress(&["shop/b"]),
            Sidecar::new(Kind::Outrigger, false, "server")
                .inbound("127.0.0.1:0".parse()?, a.address()),
        ];
        for sidecar in &mut sidecars {
            sidecar.start(&control_plane).await?;
        }
        control_plane.in_sync(4).await?;
        let [all, web_only, b_only, server] = &sidecars;
        // Beside the two clusters of the bootstrap.
        ensure!(clusters(all).await? == ["a.shop", "b.shop", "web.shop"]);
        ensure!(clusters(web_only).await? == ["a.shop", "web.shop"]);
        ensure!(clusters(b_only).await? == ["b.shop"]);
        let none = clusters(server).await?;
        ensure!(none.is_empty(), "{none:?}");

        // A change of the route concerns those who see it, and of those only the routes.
        let types = types(&control_plane, "all").await?;
        let change = control_plane
            .edit("web.yaml", &objects::split("web", &[("a", 2), ("b", 1)]))
            .await?;
        ensure!(change["proxies"] == 2 && change["acked"] == 2, "{change:#}");
        let after = self::types(&control_plane, "all").await?;
        for (before, after) in types.iter().zip(&after) {
            let is_sent = before["sent_at"] != after["sent_at"];
            ensure!(is_sent == (before["type"] == "RDS"), "{before:#} {after:#}");
        }
        // Its new backend comes into view with it.
        ensure!(clusters(web_only).await? == ["a.shop", "b.shop", "web.shop"]);
        Ok(())
    });
}

/// The services whose clusters a proxy has.
async fn clusters(sidecar: &Sidecar) -> Result<Vec<String>> {
    let reply = sidecar.proxy()?.admin_get("/clusters?format=json").await?;
    let json: Value = serde_json::from_slice(&reply.body)?;
    let all = json["cluster_statuses"]
        .as_array()
        .context("cluster_statuses")?;
    let names = all.iter().filter_map(|cluster| cluster["name"].as_str());
    let outbound = names.filter_map(|name| name.strip_prefix("outbound|80||"));
    let mut found: Vec<String> = outbound
        .map(|name| name.trim_end_matches(".svc.cluster.local").to_owned())
        .collect();
    found.sort();
    Ok(found)
}

async fn types(control_plane: &ControlPlane, id: &str) -> Result<Vec<Value>> {
    let proxy = control_plane
        .proxy(id, |proxy| proxy["in_sync"] == true)
        .await?;
    proxy["types"].as_array().cloned().context("types")
}
