//! What the demo shows: one file for each scene.

mod breaker;
mod bulkhead;
mod canary;
mod ejection;
mod release;

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;

use self::release::Tour;
pub(super) use self::{breaker::Breaker, bulkhead::Bulkhead, canary::Canary, ejection::Ejection};
use super::{Args, mesh::Mesh, report::Report, stock::Stock, view::View};

/// One scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// A release: weights are edited, the control plane is killed, a service is replaced; with traces
    Release,
    /// A host goes bad, is ejected, and comes back by one probing request
    Ejection,
    /// A circuit breaker opens over a slow service, and closes again
    Breaker,
    /// A noisy caller fills its bulkhead while others are served
    Bulkhead,
    /// A canary is raised in steps, with users that never move back
    Canary,
    /// All of them
    All,
}

/// Takes the scenes that were asked for, in order.
pub(super) async fn run(args: &Args, mesh: &mut Mesh, view: &mut View) -> anyhow::Result<Report> {
    let mut scenes = args.scene.clone();
    if scenes.contains(&Scene::All) {
        scenes = Scene::value_variants()
            .iter()
            .copied()
            .filter(|scene| *scene != Scene::All)
            .collect();
    }
    scenes.dedup();
    let count = u32::try_from(scenes.len()).unwrap_or(1).max(1);
    let time = args.duration / count;
    let needs_stock = scenes
        .iter()
        .any(|scene| !matches!(scene, Scene::Release | Scene::Canary));
    let stock = match needs_stock {
        true => Some(Stock::start(mesh, view).await?),
        false => None,
    };
    let mut report = Report::default();
    let outcome = take(&scenes, time, args, mesh, stock.as_ref(), view, &mut report).await;
    if let Some(stock) = stock {
        stock.stop().await;
    }
    outcome?;
    if scenes == [Scene::Release] && !args.json {
        view.note(
            "other scenes: --scene ejection, breaker, bulkhead, canary; --scene all shows them all",
        );
    }
    Ok(report)
}

async fn take(
    scenes: &[Scene],
    time: Duration,
    args: &Args,
    mesh: &mut Mesh,
    stock: Option<&Stock>,
    view: &mut View,
    report: &mut Report,
) -> anyhow::Result<()> {
    for scene in scenes {
        match (scene, stock) {
            (Scene::Release, _) => {
                let plan = Tour {
                    time,
                    canary: args.canary,
                    rate: args.rate,
                    draws_trace: !args.json,
                };
                release::run(&plan, mesh, view, report).await?;
            }
            (Scene::Canary, _) => {
                report.scenes.canary = Some(canary::run(time, mesh, view).await?);
            }
            (Scene::Ejection, Some(stock)) => {
                report.scenes.ejection = Some(ejection::run(time, mesh, stock, view).await?);
            }
            (Scene::Breaker, Some(stock)) => {
                report.scenes.breaker = Some(breaker::run(time, mesh, stock, view).await?);
            }
            (Scene::Bulkhead, Some(stock)) => {
                report.scenes.bulkhead = Some(bulkhead::run(time, mesh, stock, view).await?);
            }
            (Scene::All, _) | (_, None) => {}
        }
    }
    Ok(())
}

/// How long a step may take to show itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until `look` finds something; `what` is what was waited for.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what} did not happen within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn millis_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
