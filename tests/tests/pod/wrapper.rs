//! `outrigger sidecar exec`: a command that is to finish, and its sidecar with it.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use outrigger_tests::ads::AdsServer;
use outrigger_tests::kubernetes::program;
use outrigger_tests::mesh::DEADLINE;
use outrigger_tests::process::{Process, run};
use outrigger_tests::{block_on, client, wait};
use serde_json::json;

use crate::NOBODY;
use crate::sidecar::{Sidecar, pod};

/// A sidecar that will be ready.
async fn sidecar() -> Result<(Sidecar, AdsServer)> {
    let ads = AdsServer::start().await?;
    let sidecar = Sidecar::start(&pod(&json!({})), ads.address()).await?;
    for kind in ["Cluster", "Listener"] {
        ads.set(kind, Vec::new());
    }
    Ok((sidecar, ads))
}

async fn wrapped(sidecar: &Sidecar, flags: &[&str], command: &[&str]) -> Result<Vec<String>> {
    let ready = sidecar.listener("outrigger-ready").await?.port();
    let (ready, admin) = (ready.to_string(), sidecar.admin.port().to_string());
    let words = ["sidecar", "exec", "--port", &ready, "--admin-port", &admin];
    let words = [&words[..], flags, &["--"], command].concat();
    Ok(words.into_iter().map(str::to_owned).collect())
}

/// It ends by itself, and well.
async fn ends(sidecar: &mut Sidecar) -> Result<()> {
    let status = sidecar.process.wait(DEADLINE).await?;
    ensure!(status.success(), "{status}\n{}", sidecar.process.log());
    Ok(())
}

#[test]
fn the_command_runs_beside_a_ready_sidecar_and_ends_it() -> Result<()> {
    block_on(async {
        for (command, code) in [
            ("exit 0", 0),
            ("exit 3", 3),
            // What it leaves behind is nobody else's.
            ("sleep 0.1 & exit 4", 4),
            ("kill -KILL $$", 128 + 9),
        ] {
            let (mut sidecar, _ads) = sidecar().await?;
            let args = wrapped(&sidecar, &[], &["sh", "-c", command]).await?;
            let (ended, said) = run(&program()?, &args, DEADLINE).await?;
            ensure!(ended == code, "{command}: {ended}: {said}");
            ends(&mut sidecar).await?;
        }
        Ok(())
    })
}

#[test]
fn signals_are_the_commands() -> Result<()> {
    block_on(async {
        let (mut sidecar, _ads) = sidecar().await?;
        let command = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
        let args = wrapped(&sidecar, &[], &["sh", "-c", command]).await?;
        let mut process = Process::start("wrapper", &program()?, &args, &[])?;
        wait::until("the command to run", DEADLINE, async || {
            ensure!(process.log().contains("ready"), "{}", process.log());
            Ok(())
        })
        .await?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(DEADLINE).await?;
        ensure!(status.code() == Some(7), "{status}: {}", process.log());
        ends(&mut sidecar).await
    })
}

#[test]
fn a_command_that_fails_may_leave_its_sidecar() -> Result<()> {
    block_on(async {
        let (mut sidecar, _ads) = sidecar().await?;
        let flags = ["--stays-on-failure"];
        let args = wrapped(&sidecar, &flags, &["no-such-command"]).await?;
        let (code, said) = run(&program()?, &args, DEADLINE).await?;
        ensure!(
            code == 127 && said.contains("cannot run no-such-command: "),
            "{code}: {said}"
        );
        let live = client::get(sidecar.admin, "/ready").await?;
        ensure!(live.text() == "LIVE\n", "{live:?}");
        let args = wrapped(&sidecar, &flags, &["true"]).await?;
        let (code, said) = run(&program()?, &args, DEADLINE).await?;
        ensure!(code == 0, "{said}");
        ends(&mut sidecar).await
    })
}

#[test]
fn without_a_ready_sidecar_nothing_runs() -> Result<()> {
    block_on(async {
        let mut sidecar = Sidecar::start(&pod(&json!({})), NOBODY).await?;
        let args = wrapped(&sidecar, &["--timeout", "1s"], &["echo", "it runs"]).await?;
        let (code, said) = run(&program()?, &args, DEADLINE).await?;
        ensure!(
            code == 1 && said.contains("not ready after 1s: it answers 503 INITIALIZING"),
            "{code}: {said}"
        );
        ensure!(!said.contains("it runs"), "{said}");
        ends(&mut sidecar).await?;
        // One that is told to end meanwhile does so.
        let sidecar = Sidecar::start(&pod(&json!({})), NOBODY).await?;
        let args = wrapped(&sidecar, &["--timeout", "600s"], &["true"]).await?;
        let mut process = Process::start("wrapper", &program()?, &args, &[])?;
        wait::until("the wrapper to take signals", DEADLINE, async || {
            let caught = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
            let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = u64::from_str_radix(caught.unwrap_or_default().trim(), 16)?;
            ensure!(mask & (1 << (Signal::SIGTERM as u32 - 1)) != 0, "not yet");
            Ok(())
        })
        .await?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(Duration::from_secs(15)).await?;
        ensure!(
            status.code() == Some(128 + 15),
            "{status}: {}",
            process.log()
        );
        Ok(())
    })
}
