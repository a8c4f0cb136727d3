//! Policies take effect, and every refusal names the policy behind it.

use anyhow::{Result, ensure};
use outrigger_tests::client::{Request, Response};
use outrigger_tests::mesh::{ControlPlane, Sidecar, objects};
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
        control_plane.remove("policy.yaml")?;
        control_plane.in_sync(1).await
    });
}
