//! Proxies that refuse what they are sent are shown with their own words.

use anyhow::{Result, ensure};
use outrigger_tests::mesh::{ControlPlane, DEADLINE, Load, Sidecar, objects, outrigger};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::Upstream;
use outrigger_tests::wait;
use serde_json::Value;

use crate::run;

#[test]
fn envoy_is_shown_with_its_reason() {
    run(refuses_listener(Kind::Envoy));
}

#[test]
fn outrigger_is_shown_with_its_reason() {
    run(refuses_listener(Kind::Outrigger));
}

/// A node that asks for spans to a cluster that its bootstrap does not have.
async fn refuses_listener(kind: Kind) -> Result<()> {
    let a = Upstream::start("a").await?;
    let files = [("mesh.yaml", objects::service("a", &[a.address()]))];
    let control_plane = ControlPlane::start(&files).await?;
    let mut good = Sidecar::new(kind, true, "good").outbound();
    good.start(&control_plane).await?;
    let mut bad = Sidecar::new(kind, false, "bad")
        .outbound()
        .traced_by("no-such-cluster");
    bad.spawn(&control_plane).await?;
    let proxy = control_plane
        .proxy("bad", |proxy| rejection(proxy, "LDS").is_some())
        .await?;
    ensure!(proxy["in_sync"] == false, "{proxy:#}");
    let said = rejection(&proxy, "LDS").unwrap_or_default();
    ensure!(
        said.contains("no-such-cluster") && said.contains("outbound"),
        "{proxy:#}"
    );
    let proxy = control_plane
        .proxy("good", |proxy| proxy["in_sync"] == true)
        .await?;
    ensure!(rejection(&proxy, "LDS").is_none(), "{proxy:#}");
    let status = control_plane.api("status").await?;
    ensure!(
        status["connected"] == 2 && status["in_sync"] == 1,
        "{status:#}"
    );
    ensure!(status["totals"]["nacks"].as_u64() >= Some(1), "{status:#}");

    let server = format!("http://{}", control_plane.address("api"));
    let (code, said) = outrigger(&["status", "--server", &server]).await?;
    ensure!(
        code == 1,
        "exit code {code}, although a proxy is out of sync:\n{said}"
    );
    for wanted in ["good", "bad", "no-such-cluster"] {
        ensure!(said.contains(wanted), "{wanted} is not in:\n{said}");
    }
    Ok(())
}

/// Why a proxy refuses a type, if it does.
fn rejection(proxy: &Value, kind: &str) -> Option<String> {
    let mut types = proxy["types"].as_array()?.iter();
    let found = types.find(|entry| entry["type"] == kind)?;
    Some(found["rejection"]["message"].as_str()?.to_owned())
}

/// An edit that our proxy takes and Envoy does not: RE2 repeats at most 1000 times.
#[test]
fn an_edit_that_only_envoy_refuses() {
    run(async {
        let a = Upstream::start("a").await?;
        let service = objects::service("a", &[a.address()]);
        let rule = |regex: &str| {
            let path = format!("path: {{type: RegularExpression, value: \"{regex}\"}}");
            let load =
                "  - matches: [{path: {value: /load}}]\n    backendRefs: [{name: a, port: 80}]\n";
            let more =
                format!("  - matches: [{{{path}}}]\n    backendRefs: [{{name: a, port: 80}}]\n");
            objects::route("a", &[load, &more].concat())
        };
        let files = [("service.yaml", service), ("route.yaml", rule("/x{10}"))];
        let control_plane = ControlPlane::start(&files).await?;
        let mut envoy = Sidecar::new(Kind::Envoy, true, "envoy").outbound();
        let mut ours = Sidecar::new(Kind::Outrigger, true, "ours").outbound();
        envoy.start(&control_plane).await?;
        ours.start(&control_plane).await?;
        control_plane.in_sync(2).await?;
        let load = Load::start(envoy.outbound_address().await?, "a");

        control_plane.write("route.yaml", &rule("/x{1001}"))?;
        let change = wait::until("both answers", DEADLINE, async || {
            let changes = control_plane.api("changes").await?;
            let newest = changes["changes"][0].clone();
            ensure!(
                newest["acked"] == 1 && !newest["rejected"][0].is_null(),
                "{newest:#}"
            );
            Ok(newest)
        })
        .await?;
        ensure!(change["rejected"][0]["proxy"] == "envoy", "{change:#}");
        let said = change["rejected"][0]["message"]
            .as_str()
            .unwrap_or_default();
        ensure!(said.contains("invalid repetition size"), "{change:#}");
        ensure!(change["ack_ms"].is_null(), "{change:#}");
        let condition = control_plane
            .condition("HTTPRoute/shop/a", "Programmed")
            .await?;
        ensure!(
            condition["status"] == "False" && condition["reason"] == "Rejected",
            "{condition:#}"
        );
        load.next_phase();
        load.answers(50).await?;

        control_plane.edit("route.yaml", &rule("/x{11}")).await?;
        control_plane.in_sync(2).await?;
        let condition = control_plane
            .condition("HTTPRoute/shop/a", "Programmed")
            .await?;
        ensure!(condition["status"] == "True", "{condition:#}");
        load.check()
    });
}
