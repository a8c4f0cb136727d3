//! `outrigger demo`, as a user runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::process::Process;
use outrigger_tests::{proxy, wait};
use serde_json::Value;

use crate::{near, run_alone};

const DURATION: u64 = 15;
/// Start, stop, and reading traces come on top.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn the_demo_shows_it_all_and_leaves_nothing_behind() {
    run_alone(async {
        let (report, children) = demo(DURATION, &[]).await?;
        check(&report)?;

        // A control plane and its successor, five services and their sidecars, and one more of each.
        ensure!(
            children.len() >= 14,
            "only {} processes: {children:#?}",
            children.len()
        );
        let left: BTreeSet<_> = children
            .iter()
            .filter(|(id, start)| started(**id).as_ref() == Some(*start))
            .collect();
        ensure!(left.is_empty(), "still running: {left:#?}");
        Ok(())
    });
}

/// The same report, from pods whose applications know of no proxy.
#[cfg(feature = "netns")]
#[test]
fn the_demo_runs_in_network_namespaces() {
    const NAME: &str = "the_demo_runs_in_network_namespaces";
    if let Err(error) = outrigger_netns::check() {
        eprintln!("{NAME}: SKIPPED: {error:#}");
        return;
    }
    run_alone(async {
        let (report, children) = demo(DURATION, &["--netns"]).await?;
        check(&report)?;
        let left: Vec<_> = children
            .iter()
            .filter(|(id, start)| started(**id).as_ref() == Some(*start))
            .collect();
        ensure!(left.is_empty(), "still running: {left:#?}");

        // Interrupted, it leaves nothing behind either.
        let args = ["demo", "--netns"].map(str::to_owned);
        let mut demo = Process::start("demo", &proxy::binary("outrigger")?, &args, &[])?;
        wait::until("the mesh to be there", PATIENCE, async || {
            demo.check_running()?;
            let log = demo.log();
            ensure!(log.contains("call services from a pod"), "{log}");
            Ok(())
        })
        .await?;
        let children = descendants(demo.id());
        let mut places = BTreeSet::new();
        for id in children.keys() {
            let read = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}"));
            if read("cmdline")?.contains("sample-service") {
                let environment = read("environ")?;
                ensure!(!environment.contains("_proxy="), "{environment:?}");
                places.insert(fs::read_link(format!("/proc/{id}/ns/net"))?);
            }
        }
        ensure!(places.len() == 5, "{places:?}");
        ensure!(!namespaces(demo.id()).is_empty(), "no namespaces");
        demo.signal(nix::sys::signal::Signal::SIGINT)?;
        let status = demo.wait(PATIENCE).await?;
        ensure!(status.success(), "{status}: {}", demo.log());
        let left: Vec<_> = children
            .iter()
            .filter(|(id, start)| started(**id).as_ref() == Some(*start))
            .collect();
        ensure!(left.is_empty(), "still running: {left:#?}");
        let left = namespaces(demo.id());
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

/// The namespaces that a process has made.
#[cfg(feature = "netns")]
fn namespaces(of: u32) -> Vec<String> {
    let prefix = format!("outrigger-{of}-");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[test]
fn scenes_show_what_protects_callers() {
    run_alone(async {
        let scenes = ["--scene=ejection,breaker,bulkhead,canary"];
        let (report, _) = demo(24, &scenes).await?;
        let scenes = &report["scenes"];

        let ejection = &scenes["ejection"];
        ensure!(ejection["failed"] == 0, "callers saw it: {ejection:#}");
        let [before, out, after] = [0, 1, 2].map(|phase| &ejection["hosts"][phase]);
        ensure!(
            ["a", "b", "c"]
                .iter()
                .all(|host| before[host].as_u64() > Some(0)),
            "{ejection:#}"
        );
        ensure!(
            out["b"].is_null() && out["a"].as_u64() > Some(0),
            "{ejection:#}"
        );
        ensure!(after["b"].as_u64() > Some(0), "{ejection:#}");

        let breaker = &scenes["breaker"];
        let reason = breaker["reason"].as_str().unwrap_or_default();
        ensure!(
            reason.contains("max_requests=5") && reason.contains("TrafficPolicy/shop/stock"),
            "{breaker:#}"
        );
        ensure!(breaker["slow"][1].as_u64() > Some(0), "{breaker:#}");
        ensure!(breaker["recovered"][1] == 0, "{breaker:#}");

        let bulkhead = &scenes["bulkhead"];
        for quiet in ["alice", "bob"] {
            let share = &bulkhead["callers"][quiet];
            ensure!(
                share["refused"] == 0 && share["served"].as_u64() > Some(0),
                "{bulkhead:#}"
            );
        }
        ensure!(
            bulkhead["callers"]["noisy"]["refused"].as_u64() > Some(0),
            "{bulkhead:#}"
        );
        let reason = bulkhead["reason"].as_str().unwrap_or_default();
        ensure!(
            reason.contains("\"noisy\"") && reason.contains("Bulkhead/shop/stock"),
            "{bulkhead:#}"
        );

        let canary = &scenes["canary"];
        for nobody in ["torn", "moved_back", "failed"] {
            ensure!(canary[nobody] == 0, "{nobody}: {canary:#}");
        }
        let steps = canary["steps"].as_array().context("steps")?;
        let users: Vec<u64> = steps
            .iter()
            .filter_map(|step| step["users_of_v2"].as_u64())
            .collect();
        ensure!(
            users.len() == 4 && users.is_sorted() && users[0] < users[3] && users[3] == 100,
            "{canary:#}"
        );
        Ok(())
    });
}

/// Runs the demo to its end; gives its report and all processes that it had.
async fn demo(seconds: u64, flags: &[&str]) -> Result<(Value, BTreeMap<u32, String>)> {
    let folder = tempfile::tempdir()?;
    let mut args = vec![
        "demo".to_owned(),
        format!("--duration={seconds}s"),
        "--json".to_owned(),
        format!("--dir={}", folder.path().display()),
    ];
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut demo = Process::start("demo", &proxy::binary("outrigger")?, &args, &[])?;
    let mut children = BTreeMap::new();
    let status = wait::until("the demo to end", PATIENCE, async || {
        children.extend(descendants(demo.id()));
        demo.exited()?.context("it runs")
    })
    .await?;
    ensure!(status.success(), "{status}:\n{}", demo.log());
    let log = wait::until("the report", Duration::from_secs(5), async || {
        let log = demo.log();
        log.trim_end()
            .ends_with('}')
            .then_some(log.clone())
            .context(log)
    })
    .await?;
    let start = log.find("{\"duration_s\"").context("no JSON")?;
    let report = serde_json::from_str(log.get(start..).unwrap_or_default()).context(log.clone())?;
    Ok((report, children))
}

fn check(report: &Value) -> Result<()> {
    ensure!(report["failed"] == 0, "{report:#}");
    let requests = report["requests"].as_u64().context("requests")?;
    ensure!(requests > DURATION * 50, "{report:#}");
    ensure!(report["duration_s"].as_f64() >= Some(14.0), "{report:#}");

    let phases = report["versions"].as_object().context("versions")?;
    for (phase, share) in [("90/10", 0.1), ("50/50", 0.5), ("0/100", 1.0)] {
        let versions = phases
            .get(phase)
            .with_context(|| format!("{phase} in {report:#}"))?;
        let count = |version: &str| versions[version].as_u64().unwrap_or_default();
        let all = u32::try_from(count("v1") + count("v2"))?;
        ensure!(all >= 100, "{phase}: {report:#}");
        let v2 = f64::from(u32::try_from(count("v2"))?) / f64::from(all);
        near(v2, share, all).with_context(|| format!("{phase}: {versions}"))?;
    }
    let edits = report["edits"].as_array().context("edits")?;
    let weights: Vec<_> = edits
        .iter()
        .filter_map(|edit| edit["weights"].as_str())
        .collect();
    ensure!(weights == ["50/50", "0/100"], "{report:#}");
    for edit in edits {
        ensure!(
            edit["acked_by"] == edit["proxies"] && edit["proxies"].as_u64() >= Some(5),
            "{edit:#}"
        );
        ensure!(
            edit["ack_ms"]
                .as_f64()
                .is_some_and(|time| time > 0.0 && time < 2000.0),
            "{edit:#}"
        );
    }
    let hops = report["latency_ms"].as_object().context("latency_ms")?;
    ensure!(hops.len() >= 4, "{report:#}");
    for (hop, latency) in hops {
        let (p50, p99) = (latency["p50"].as_f64(), latency["p99"].as_f64());
        ensure!(p50 > Some(0.0) && p99 >= p50, "{hop}: {latency}");
    }
    let traces = &report["traces"];
    ensure!(traces["stored"].as_u64() > Some(0), "{report:#}");
    ensure!(traces["example_spans"].as_u64() >= Some(7), "{report:#}");
    ensure!(
        traces["services"].as_array().map(Vec::len) >= Some(4),
        "{report:#}"
    );
    Ok(())
}

/// All processes under one, each with the time of its start, by which it is told from a later
/// process with the same number.
fn descendants(root: u32) -> BTreeMap<u32, String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<(u32, u32, String)> = ids
        .filter_map(|id| stat(id).map(|(parent, start)| (id, parent, start)))
        .collect();
    let mut found = BTreeMap::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (id, _, start) in all.iter().filter(|(_, of, _)| *of == parent) {
            if found.insert(*id, start.clone()).is_none() {
                parents.push(*id);
            }
        }
    }
    found
}

/// When a process started, if it still runs.
fn started(id: u32) -> Option<String> {
    stat(id).map(|(_, start)| start)
}

/// Parent and start of a process that is no zombie.
fn stat(id: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    (*fields.first()? != "Z").then_some(())?;
    Some((fields.get(1)?.parse().ok()?, (*fields.get(19)?).to_owned()))
}
