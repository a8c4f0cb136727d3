//! Proxies that refuse what they are sent are shown with their own words.

use anyhow::{Result, ensure};
use outrigger_tests::mesh::{ControlPlane, DEADLINE, Load, Sidecar, objects, outrigger};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::Upstream;
use outrigger_tests::wait;
use serde_json::Value;

use crate::run;

#[test]
fn a_listener_that_envoy_refuses() {
    run(refuses_listener(Kind::Envoy));
}

#[test]
fn a_listener_that_outrigger_refuses() {
    run(refuses_listener(Kind::Outrigger));
}

/// A node that asks for a log that it cannot write, beside one that does not.
async fn refuses_listener(kind: Kind) -> Result<()> {
    let a = Upstream::start("a").await?;
    let files = [("mesh.yaml", objects::service("a", &[a.address()]))];
    let control_plane = ControlPlane::start(&files).await?;
    let mut good = Sidecar::new(kind, true, "good").outbound();
    good.start(&control_plane).await?;
    let mut bad = Sidecar::new(kind, false, "bad")
        .outbound()
        .logs_to("/proc/no-such-folder/log");
    bad.spawn(&control_plane).await?;
    let proxy = control_plane
        .proxy("bad", |proxy| rejection(proxy, "LDS").is_some())
        .await?;
    ensure!(proxy["in_sync"] == false, "{proxy:#}");
    let said = rejection(&proxy, "LDS").unwrap_or_default();
    ensure!(
        said.contains("no-such-folder") && said.contains("outbound"),
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
        "exit code {code}, although a proxy refuses:\n{said}"
    );
    for wanted in ["good", "bad", "no-such-folder"] {
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

/// An expression that both proxies would refuse (their expressions repeat at most 1000 times) is found by
/// the control plane, and never reaches them.
#[test]
fn an_edit_that_proxies_would_refuse() {
    run(async {
        let a = Upstream::start("a").await?;
        let files = [
            ("service.yaml", objects::service("a", &[a.address()])),
            ("route.yaml", repeating(10)),
        ];
        let control_plane = ControlPlane::start(&files).await?;
        let mut envoy = Sidecar::new(Kind::Envoy, true, "envoy").outbound();
        let mut ours = Sidecar::new(Kind::Outrigger, true, "ours").outbound();
        envoy.start(&control_plane).await?;
        ours.start(&control_plane).await?;
        control_plane.in_sync(2).await?;
        let loads = [
            Load::start(envoy.outbound_address().await?, "a"),
            Load::start(ours.outbound_address().await?, "a"),
        ];
        control_plane.write("route.yaml", &repeating(1001))?;
        let finding = wait::until("the finding", DEADLINE, async || {
            let status = control_plane.api("status").await?;
            let finding = status["findings"][0].clone();
            ensure!(finding["severity"] == "error", "{status:#}");
            Ok(finding)
        })
        .await?;
        ensure!(finding["object"] == "HTTPRoute/shop/a", "{finding:#}");
        ensure!(
            finding["path"] == "spec.rules[1].matches[0].path.value",
            "{finding:#}"
        );
        for load in &loads {
            load.next_phase();
            load.answers(50).await?;
        }
        let status = control_plane.api("status").await?;
        ensure!(status["totals"]["nacks"] == 0, "{status:#}");

        control_plane.edit("route.yaml", &repeating(11)).await?;
        control_plane.in_sync(2).await?;
        loads.iter().try_for_each(Load::check)
    });
}

/// Envoy takes only small expressions by default, whatever the control plane and our proxy make of them.
#[test]
fn an_edit_that_only_envoy_refuses() {
    run(async {
        let a = Upstream::start("a").await?;
        let files = [
            ("service.yaml", objects::service("a", &[a.address()])),
            ("route.yaml", repeating(10)),
        ];
        let control_plane = ControlPlane::start(&files).await?;
        let mut envoy = Sidecar::new(Kind::Envoy, true, "envoy").outbound();
        let mut ours = Sidecar::new(Kind::Outrigger, true, "ours").outbound();
        envoy.start(&control_plane).await?;
        ours.start(&control_plane).await?;
        control_plane.in_sync(2).await?;
        let loads = [
            Load::start(envoy.outbound_address().await?, "a"),
            Load::start(ours.outbound_address().await?, "a"),
        ];
        control_plane.write("route.yaml", &repeating(200))?;
        let change = wait::until("both answers", DEADLINE, async || {
            let changes = control_plane.api("changes").await?;
            let newest = changes["changes"][0].clone();
            let refused = newest["rejected"].as_array().map_or(0, Vec::len);
            ensure!(refused == 1 && newest["acked"] == 1, "{newest:#}");
            Ok(newest)
        })
        .await?;
        ensure!(change["ack_ms"].is_null(), "{change:#}");
        let refused = &change["rejected"][0];
        let said = refused["message"].as_str().unwrap_or_default();
        ensure!(
            refused["proxy"] == "envoy" && said.contains("max program size"),
            "{change:#}"
        );
        let proxy = control_plane
            .proxy("ours", |proxy| proxy["in_sync"] == true)
            .await?;
        ensure!(rejection(&proxy, "RDS").is_none(), "{proxy:#}");
        let route = "HTTPRoute/shop/a";
        let condition = control_plane.condition(route, "Programmed").await?;
        ensure!(condition["status"] == "False", "{condition:#}");
        ensure!(condition["reason"] == "Rejected", "{condition:#}");
        for load in &loads {
            load.next_phase();
            load.answers(50).await?;
        }

        control_plane.edit("route.yaml", &repeating(11)).await?;
        control_plane.in_sync(2).await?;
        let condition = control_plane.condition(route, "Programmed").await?;
        ensure!(condition["status"] == "True", "{condition:#}");
        loads.iter().try_for_each(Load::check)
    });
}

/// A route with a rule for load and one with a repetition.
fn repeating(times: usize) -> String {
    let rules = format!(
        "  - matches: [{{path: {{value: /load}}}}]
    backendRefs: [{{name: a, port: 80}}]
  - matches: [{{path: {{type: RegularExpression, value: \"/x{{{times}}}\"}}}}]
    backendRefs: [{{name: a, port: 80}}]
"
    );
    objects::route("a", &rules)
}
