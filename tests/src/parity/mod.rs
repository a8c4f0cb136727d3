//! The parity suite: one YAML file is one case, run on real Envoy and on `outrigger-proxy` with the
//! same upstreams and requests; what they do must be the same, except as `docs/differences.md` says.
//!
//! `docs/differences.md` explains how to add a case and how to declare a difference.

mod admin;
mod bootstrap;
mod case;
mod compare;
mod differences;
mod normalise;
mod observe;
mod outcome;
mod share;
mod upstreams;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::proxy::{self, Kind};
use case::Case;
use compare::Difference;
use upstreams::Upstreams;

pub use differences::Differences;

/// The heading under which cases with `unsupported` fall.
const NOT_YET: &str = "not-yet-supported";

/// Where the cases are.
pub fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases")
}

/// Runs one case on both proxies and compares.
///
/// With `OUTRIGGER_PARITY_SUBJECT=envoy`, Envoy takes both sides: that proves the harness and the
/// case. With `OUTRIGGER_PARITY_PRINT=1`, what Envoy did is printed.
pub async fn run(name: &str) -> Result<()> {
    let path = cases().join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let subject = match std::env::var("OUTRIGGER_PARITY_SUBJECT").as_deref() {
        Ok("envoy") => Kind::Envoy,
        _ => Kind::Outrigger,
    };
    let mut upstreams = Upstreams::start(&text).await?;
    let (expected, case) = observe::run(Kind::Envoy, &text, &upstreams, None)
        .await
        .context("on envoy")?;
    if std::env::var_os("OUTRIGGER_PARITY_PRINT").is_some() {
        eprintln!("{name}: {}", serde_json::to_string_pretty(&expected)?);
    }
    observe::check_guards(&case, &expected).context("envoy does not do what the case says")?;
    if subject == Kind::Outrigger
        && let Some(says) = &case.unsupported
    {
        ensure!(
            Differences::read()?.has(NOT_YET),
            "{NOT_YET} is not in docs/differences.md"
        );
        return observe::check_unsupported(&text, says)
            .await
            .context("the case says `unsupported`: remove that if it works now");
    }
    if !case.same_upstreams {
        upstreams = Upstreams::start(&text).await?;
    }
    let (seen, _) = observe::run(subject, &text, &upstreams, Some(&expected))
        .await
        .with_context(|| format!("on {}", subject.name()))?;
    let differences = compare::compare(&expected, &seen);
    if subject == Kind::Envoy {
        return report(&differences);
    }
    explain(&case, differences)
}

/// Leaves out the declared differences; fails on any other, and on a declared one that vanished.
fn explain(case: &Case, differences: Vec<Difference>) -> Result<()> {
    let documented = Differences::read()?;
    let mut unexplained = Vec::new();
    let mut used = vec![false; case.expect_difference.len()];
    for difference in differences {
        let mut explained = false;
        for (index, expected) in case.expect_difference.iter().enumerate() {
            if difference.at.starts_with(&expected.at) {
                used[index] = true;
                explained = true;
            }
        }
        if !explained {
            unexplained.push(difference);
        }
    }
    report(&unexplained)?;
    for (expected, used) in case.expect_difference.iter().zip(used) {
        ensure!(
            documented.has(&expected.id),
            "expect_difference {:?} is not a heading of docs/differences.md",
            expected.id
        );
        ensure!(
            used,
            "the difference {:?} at {} has vanished: remove it from the case",
            expected.id,
            expected.at
        );
    }
    Ok(())
}

fn report(differences: &[Difference]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    bail!(
        "{} differences from Envoy:\n{}",
        lines.len(),
        lines.join("\n")
    )
}

/// Fails when a heading of `docs/differences.md` is used by no case, or a case cannot be read.
pub fn check_documentation() -> Result<()> {
    let documented = Differences::read()?;
    let mut used = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(cases())? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let case = Case::parse(&text, &case::Places::default());
        let case = case.with_context(|| path.display().to_string())?;
        used.extend(case.unsupported.map(|_| NOT_YET.to_owned()));
        used.extend(
            case.expect_difference
                .into_iter()
                .map(|difference| difference.id),
        );
        count += 1;
    }
    ensure!(count >= 60, "only {count} cases found");
    let unused: Vec<&str> = documented
        .case_ids()
        .filter(|id| !used.iter().any(|used| used == id))
        .collect();
    ensure!(
        unused.is_empty(),
        "docs/differences.md lists what no case shows: {unused:?}"
    );
    Ok(())
}

/// Both proxies must refuse the configuration.
async fn check_rejected(kind: Kind, config: &str, says: &[String]) -> Result<()> {
    let (code, output) = proxy::validate(kind, config).await?;
    ensure!(code == 1, "exit code {code} instead of 1:\n{output}");
    // The texts are ours to choose; only our own proxy must say them.
    if kind == Kind::Outrigger {
        for text in says {
            ensure!(output.contains(text), "{text:?} is not in:\n{output}");
        }
    }
    Ok(())
}
