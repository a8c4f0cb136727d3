//! `outrigger status` shows what proxies limit, and which object asks for it.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::{Request, Response};
use outrigger_tests::mesh::{ControlPlane, DEADLINE, Sidecar, objects, outrigger, ports};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::{SCRIPT, Upstream};
use outrigger_tests::wait;
use serde_json::Value;

use crate::run;

fn policy(kind: &str, service: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1
kind: {kind}
metadata: {{name: {service}-limit, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: {service}}}]
  {spec}
---
"
    )
}

/// A request to a service that answers after longer than the test takes.
fn slow(service: &str) -> Request {
    Request {
        authority: service.to_owned(),
        ..Request::new("GET", "/")
    }
    .header(SCRIPT, r#"{"delay_ms": 60000}"#)
}

/// The words of the row of an object's limit.
fn row<'a>(shown: &'a str, object: &str, limit: &str) -> Result<Vec<&'a str>> {
    let mut lines = shown.lines();
    let line = lines.find(|line| line.contains(object) && line.contains(limit));
    let line = line.with_context(|| shown.to_owned())?;
    Ok(line.split_whitespace().collect())
}

#[test]
fn status_shows_a_full_breaker_and_a_full_bulkhead_with_their_objects() {
    run(async {
        let (a, b) = (Upstream::start("a").await?, Upstream::start("b").await?);
        let files = [
            ("a.yaml", objects::service("a", &[a.address()])),
            ("b.yaml", objects::service("b", &[b.address()])),
            (
                "policies.yaml",
                policy("TrafficPolicy", "a", "circuitBreaker: {maxRequests: 1}")
                    + &policy("Bulkhead", "b", "maxConcurrent: 1"),
            ),
        ];
        let control_plane = ControlPlane::start(&files).await?;
        let admin = ports::reserve()?;
        let mut ours = Sidecar::new(Kind::Outrigger, true, "caller")
            .outbound()
            .admin_at(admin);
        let mut envoy = Sidecar::new(Kind::Envoy, true, "envoy").outbound();
        ours.start(&control_plane).await?;
        envoy.start(&control_plane).await?;
        control_plane.in_sync(2).await?;
        let address = ours.outbound_address().await?;

        let server = format!("http://{}", control_plane.address("api"));
        let limits = ["status", "limits", "--server", &server];
        let (code, shown) = outrigger(&limits).await?;
        ensure!(
            code == 0 && !shown.contains("max_requests"),
            "idle: {shown}"
        );
        let (_, shown) = outrigger(&[&limits[..], &["--all"]].concat()).await?;
        ensure!(
            row(&shown, "TrafficPolicy/shop/a-limit", "max_requests")?.contains(&"breaker"),
            "{shown}"
        );

        let held = [slow("a"), slow("b")].map(|request| tokio::spawn(request.send_h1(address)));
        wait::until("both are held", DEADLINE, async || {
            ensure!(a.pending() == 1 && b.pending() == 1, "not yet");
            Ok(())
        })
        .await?;
        for service in ["a", "b"] {
            let reply: Response = slow(service).send_h1(address).await?;
            ensure!(reply.status == 503, "{service}: {}", reply.status);
        }
        let (code, shown) = outrigger(&limits).await?;
        let breaker = row(&shown, "TrafficPolicy/shop/a-limit", "max_requests")?;
        ensure!(
            code == 0
                && breaker.starts_with(&["caller", "breaker"])
                && breaker.contains(&"max_requests")
                && breaker.contains(&"1/1")
                && breaker.ends_with(&["ago"]),
            "{shown}"
        );
        let bulkhead = row(&shown, "Bulkhead/shop/b-limit", "max_concurrent")?;
        let expected = [
            "caller",
            "bulkhead",
            "Bulkhead/shop/b-limit",
            "max_concurrent",
        ];
        ensure!(
            bulkhead.starts_with(&expected)
                && bulkhead.get(4..7) == Some(&["1/1", "0/0", "1"])
                && bulkhead.ends_with(&["ago"]),
            "{shown}"
        );
        ensure!(
            shown.contains("envoy: limits not known: an Envoy"),
            "{shown}"
        );

        let (_, json) = outrigger(&[&limits[..], &["-o", "json"]].concat()).await?;
        let json: Value = serde_json::from_str(&json).with_context(|| json.clone())?;
        let told = json["limits"][0]["limits"].as_array();
        let told = told.with_context(|| format!("{json:#}"))?;
        let is_bulkhead = |limit: &&Value| limit["object"] == "Bulkhead/shop/b-limit";
        let bulkhead = told.iter().find(is_bulkhead);
        let bulkhead = bulkhead.with_context(|| format!("{json:#}"))?;
        let reason = bulkhead["reason"].as_str().unwrap_or_default();
        ensure!(
            bulkhead["refused"] == 1 && reason.contains("max_concurrent=1"),
            "{bulkhead:#}"
        );
        ensure!(
            told.iter().any(|limit| limit["used"] == 0),
            "idle ones too: {json:#}"
        );

        held.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    });
}

#[test]
fn a_proxy_is_asked_without_a_control_plane() {
    run(async {
        let a = Upstream::start("a").await?;
        let limit = policy("TrafficPolicy", "a", "circuitBreaker: {maxRequests: 0}");
        let files = [
            ("a.yaml", objects::service("a", &[a.address()])),
            ("policy.yaml", limit),
        ];
        let mut control_plane = ControlPlane::start(&files).await?;
        let mut sidecar = Sidecar::new(Kind::Outrigger, true, "caller").outbound();
        sidecar.start(&control_plane).await?;
        control_plane.in_sync(1).await?;
        let address = sidecar.outbound_address().await?;
        let reply = slow("a").send_h1(address).await?;
        ensure!(reply.status == 503, "{}", reply.status);
        control_plane.kill().await?;

        let admin = sidecar.proxy()?.admin().to_string();
        let server = format!("http://{}", control_plane.address("api"));
        let asked = ["status", "--server", &server, "--admin", &admin];
        let (code, shown) = outrigger(&asked).await?;
        let breaker = row(&shown, "TrafficPolicy/shop/a-limit", "max_requests")?;
        ensure!(code == 0 && breaker.contains(&"0/0"), "{shown}");

        sidecar.kill().await?;
        let (code, shown) = outrigger(&asked).await?;
        let note = format!("{admin}: limits not known: can't reach");
        ensure!(code == 1 && shown.contains(&note), "{code} {shown}");
        Ok(())
    });
}
