//! A chain of services at whose end everything fails: retries do not multiply from hop to hop.

use anyhow::ensure;
use outrigger_tests::mesh::{ControlPlane, Load, Service, Sidecar, listening, objects, ports};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::{Script, Upstream};
use outrigger_tests::wait;

use crate::run_alone;

/// Requests sent into the chain.
const REQUESTS: usize = 3000;
/// What may reach its end for each of them.
const AMPLIFICATION: f64 = 1.2;

#[test]
fn retries_do_not_multiply_along_a_failing_chain() {
    run_alone(async {
        let failing = Script {
            status: Some(503),
            ..Script::default()
        };
        let end = Upstream::start_with("end", "127.0.0.1:0".parse()?, Some(failing)).await?;
        let names = ["front", "middle", "back"];
        let calls = ["middle", "back", "end"];
        let mut services = objects::service("end", &[end.address()]);
        let mut members = Vec::new();
        for (name, call) in names.iter().zip(calls) {
            let (inbound, outbound) = (ports::reserve()?, ports::reserve()?);
            let app = Service::calling(name, &[call], Some(outbound)).await?;
            services.push_str(&objects::service(name, &[inbound]));
            let sidecar = Sidecar::new(Kind::Outrigger, true, name)
                .outbound_at(outbound)
                .inbound(inbound, app.address());
            members.push((app, sidecar, [inbound, outbound]));
        }
        let control_plane = ControlPlane::start(&[("mesh.yaml", services)]).await?;
        for (_, sidecar, _) in &mut members {
            sidecar.start(&control_plane).await?;
        }
        control_plane.in_sync(members.len()).await?;
        for address in members.iter().flat_map(|(_, _, addresses)| addresses) {
            listening(*address).await?;
        }
        let [front, _] = members[0].2;
        let load = Load::start(front, "front");
        wait::until("requests", std::time::Duration::from_secs(60), async || {
            ensure!(load.requests() >= REQUESTS, "{} requests", load.requests());
            Ok(())
        })
        .await?;
        let sent = load.requests();
        let failures = load.take_failures();
        ensure!(
            failures.len() >= REQUESTS,
            "some of {sent} requests succeeded"
        );
        drop(load);
        let arrived = end.take_received().len();
        let factor = f64::from(u32::try_from(arrived)?) / f64::from(u32::try_from(sent)?);
        ensure!(
            factor <= AMPLIFICATION,
            "{sent} requests became {arrived} at the end of the chain: {factor:.2} times"
        );
        // And the policy is in force: some were tried again.
        ensure!(factor > 1.0, "nothing was tried again: {arrived} of {sent}");
        Ok(())
    });
}
