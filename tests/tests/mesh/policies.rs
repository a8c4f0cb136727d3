//! Policies take effect, and every refusal names the policy behind it.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::{Request, Response};
use outrigger_tests::mesh::{ControlPlane, Sidecar, objects, outrigger};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::Upstream;

use crate::run;

/// A policy of the service `a`.
fn policy(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1
kind: {kind}
metadata: {{name: p, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: a}}]
  {spec}
"
    )
}

#[test]
fn a_refusal_names_its_policy() {
    run(async {
        let upstream = Upstream::start("a").await?;
        let service = objects::service("a", &[upstream.address()]);
        let control_plane = ControlPlane::start(&[("service.yaml", service)]).await?;
        let mut sidecar = Sidecar::new(Kind::Outrigger, true, "caller").outbound();
        sidecar.start(&control_plane).await?;
        control_plane.in_sync(1).await?;
        let address = sidecar.outbound_address().await?;
        let ask = async || -> Result<Response> {
            let request = Request {
                authority: "a".to_owned(),
                ..Request::new("GET", "/")
            };
            request.send_h1(address).await
        };
        ensure!(ask().await?.status == 200, "the service is not reached");
        let spec = "circuitBreaker: {maxRequests: 0}";
        let change = control_plane
            .edit("policy.yaml", &policy("TrafficPolicy", spec))
            .await?;
        ensure!(change["acked"] == 1, "{change:#}");
        let reply = ask().await?;
        let said = reply.header("x-outrigger-reason").unwrap_or_default();
        ensure!(
            reply.status == 503
                && said.contains("circuit-breaker max_requests=0 TrafficPolicy/shop/p"),
            "{} {said} {}",
            reply.status,
            reply.text()
        );
        let admin = sidecar.proxy()?.admin().to_string();
        let server = format!("http://{}", control_plane.address("api"));
        let args = ["status", "limits", "--server", &server, "--admin", &admin];
        let (code, shown) = outrigger(&args).await?;
        let row = shown.lines().find(|line| line.contains("max_requests"));
        let row = row.with_context(|| shown.clone())?;
        ensure!(
            code == 0 && row.contains("TrafficPolicy/shop/p") && row.contains("0/0"),
            "{shown}"
        );
        control_plane.remove("policy.yaml")?;
        control_plane.in_sync(1).await
    });
}

#[test]
fn a_rate_limit_and_a_fault_take_effect() {
    run(async {
        let upstream = Upstream::start("a").await?;
        let service = objects::service("a", &[upstream.address()]);
        let control_plane = ControlPlane::start(&[("service.yaml", service)]).await?;
        let mut sidecar = Sidecar::new(Kind::Outrigger, true, "caller").outbound();
        sidecar.start(&control_plane).await?;
        control_plane.in_sync(1).await?;
        let address = sidecar.outbound_address().await?;
        let ask = async || -> Result<Response> {
            let request = Request {
                authority: "a".to_owned(),
                ..Request::new("GET", "/")
            };
            request.send_h1(address).await
        };
        let limit = "{requests: 1, per: 1h, targetRefs: [{group: '', kind: Service, name: a}]}";
        let limit = policy("RateLimitPolicy", "").replace(
            "spec:\n  targetRefs: [{group: '', kind: Service, name: a}]",
            &format!("spec: {limit}"),
        );
        control_plane.edit("policy.yaml", &limit).await?;
        ensure!(
            ask().await?.status == 200,
            "the first request is within the limit"
        );
        let reply = ask().await?;
        let said = reply.header("x-outrigger-reason").unwrap_or_default();
        ensure!(
            reply.status == 429 && said.contains("RateLimitPolicy/shop/p"),
            "{} {said}",
            reply.status
        );

        let fault = policy(
            "FaultPolicy",
            "ttl: 1h\n  abort: {httpStatus: 418, percent: 100}",
        );
        control_plane.edit("policy.yaml", &fault).await?;
        let reply = ask().await?;
        let said = reply.header("x-outrigger-reason").unwrap_or_default();
        ensure!(
            reply.status == 418
                && said.contains("fault abort http_status=418 (FaultPolicy/shop/p)"),
            "{} {said}",
            reply.status
        );
        let before = control_plane.version().await?;
        control_plane.remove("policy.yaml")?;
        control_plane.change_after(before).await?;
        ensure!(ask().await?.status == 200, "the fault outlives its policy");
        Ok(())
    });
}
