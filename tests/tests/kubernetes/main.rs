//! The webhook and a real API server: kube-apiserver over etcd, which `cargo xtask test` builds.
//!
//! The server is started once, and everything is tried on it one after the other: registered by what
//! `outrigger injector manifests` prints, and run with that service account's own rights.

mod decisions;
mod failure;
mod place;
mod rotation;

use anyhow::Result;
use outrigger_tests::block_on;
use outrigger_tests::kubernetes::built;

use place::Place;

#[test]
fn the_api_server_calls_the_webhook() -> Result<()> {
    let programs = match built() {
        Ok(programs) => programs,
        Err(missing) => {
            eprintln!("skipped: {missing}");
            return Ok(());
        }
    };
    block_on(async {
        let mut place = Place::start(programs).await?;
        decisions::run(&place).await?;
        rotation::run(&mut place).await?;
        failure::run(&mut place).await
    })
}
