//! Edits of the files under load: live at once, atomically, without one failed request.

use anyhow::{Result, ensure};
use outrigger_tests::mesh::{Load, objects};
use outrigger_tests::upstream::Upstream;

use crate::{Canary, near, run};

#[test]
fn weights_state_of_the_world() {
    run(weights(false));
}

#[test]
fn weights_delta() {
    run(weights(true));
}

async fn weights(delta: bool) -> Result<()> {
    let mesh = Canary::start(delta, [90, 10]).await?;
    let load = Load::start(mesh.sidecar.outbound_address().await?, "reviews");
    near(load.share("v2", 400).await?, 0.10, 400)?;
    for (weights, share) in [([50, 50], 0.5), ([0, 100], 1.0)] {
        let change = mesh
            .control_plane
            .edit("route.yaml", &Canary::route(weights))
            .await?;
        ensure!(change["proxies"] == 1 && change["acked"] == 1, "{change:#}");
        let objects = change["objects"].to_string();
        ensure!(
            objects.contains("reviews") && !objects.contains("reviews-v1"),
            "{change:#}"
        );
        load.next_phase();
        near(load.share("v2", 400).await?, share, 400)?;
    }
    load.check()
}

#[test]
fn a_service_and_its_route_arrive_together() {
    run(async {
        let mesh = Canary::start(true, [100, 0]).await?;
        let load = Load::start(mesh.sidecar.outbound_address().await?, "reviews");
        load.answers(50).await?;
        // The route names a service that comes with it; the order in the file must not matter.
        let v3 = Upstream::start("v3").await?;
        let split = objects::split("reviews", &[("reviews-v3", 1)]);
        let both = [split, objects::service("reviews-v3", &[v3.address()])];
        mesh.control_plane
            .edit("route.yaml", &both.concat())
            .await?;
        load.next_phase();
        ensure!(
            load.share("v3", 100).await? >= 1.0,
            "some requests went elsewhere"
        );
        // And both go together.
        mesh.control_plane
            .edit("route.yaml", &Canary::route([0, 1]))
            .await?;
        load.next_phase();
        ensure!(
            load.share("v2", 100).await? >= 1.0,
            "some requests went elsewhere"
        );
        load.check()
    });
}

#[test]
fn endpoints_move_without_a_failure() {
    run(async {
        let mesh = Canary::start(false, [1, 0]).await?;
        let load = Load::start(mesh.sidecar.outbound_address().await?, "reviews");
        load.answers(50).await?;
        let services = [
            objects::front("reviews"),
            objects::service("reviews-v1", &[mesh.v2.address()]),
            objects::service("reviews-v2", &[mesh.v1.address()]),
        ];
        mesh.control_plane
            .edit("services.yaml", &services.concat())
            .await?;
        load.next_phase();
        ensure!(
            load.share("v2", 100).await? >= 1.0,
            "the old endpoint is still in use"
        );
        load.check()
    });
}

#[test]
fn without_a_route_a_service_leads_to_its_own_endpoints() {
    run(async {
        let mesh = Canary::start(true, [1, 1]).await?;
        let direct = Load::start(mesh.sidecar.outbound_address().await?, "reviews-v1.shop");
        ensure!(
            direct.share("v1", 50).await? >= 1.0,
            "not only its own endpoints"
        );
        direct.check()
    });
}
