//! A mesh of our own parts: files become live, traces become whole, and users are told.

mod chain;
mod churn;
mod demo;
mod edits;
mod findings;
mod limits;
mod policies;
mod rejections;
mod scope;
mod traces;
mod upgrades;

use std::sync::{PoisonError, RwLock};

use anyhow::{Result, ensure};
use outrigger_tests::mesh::{ControlPlane, Sidecar, objects};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::Upstream;

/// The demo's load does not wait for answers, so it needs the machine for itself.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs one test.
fn run(test: impl Future<Output = Result<()>>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    finish(test);
}

/// Runs one test while no other of this program runs.
fn run_alone(test: impl Future<Output = Result<()>>) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    finish(test);
}

fn finish(test: impl Future<Output = Result<()>>) {
    if let Err(error) = outrigger_tests::block_on(test) {
        panic!("{error:#}");
    }
}

/// A caller's sidecar, and the service `reviews` in two versions that its route splits.
struct Canary {
    control_plane: ControlPlane,
    sidecar: Sidecar,
    v1: Upstream,
    v2: Upstream,
}

impl Canary {
    async fn start(delta: bool, weights: [u32; 2]) -> Result<Self> {
        let (v1, v2) = (Upstream::start("v1").await?, Upstream::start("v2").await?);
        let services = [
            objects::front("reviews"),
            objects::service("reviews-v1", &[v1.address()]),
            objects::service("reviews-v2", &[v2.address()]),
        ];
        let files = [
            ("services.yaml", services.concat()),
            ("route.yaml", Self::route(weights)),
        ];
        let control_plane = ControlPlane::start(&files).await?;
        let mut sidecar = Sidecar::new(Kind::Outrigger, delta, "caller").outbound();
        sidecar.start(&control_plane).await?;
        control_plane.in_sync(1).await?;
        Ok(Self {
            control_plane,
            sidecar,
            v1,
            v2,
        })
    }

    fn route([v1, v2]: [u32; 2]) -> String {
        objects::split("reviews", &[("reviews-v1", v1), ("reviews-v2", v2)])
    }
}

/// Whether a share is what it should be: within six standard deviations.
fn near(share: f64, expected: f64, of: u32) -> Result<()> {
    let tolerance = 6.0 * (expected * (1.0 - expected) / f64::from(of)).sqrt();
    ensure!(
        (share - expected).abs() <= tolerance,
        "a share of {share} instead of {expected}"
    );
    Ok(())
}
