//! A canary is raised in steps, with sticky users.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;

use crate::demo::{
    mesh::Mesh,
    topology,
    traffic::{Caller, Traffic},
    view::View,
};

const POLICY: &str = "\
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: reviews
  namespace: shop
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: reviews
  stickiness:
    \"on\":
    - header: x-user
";
const CALLER: &str = "readers";
const USERS: u32 = 100;
const STEPS: [u32; 4] = [10, 30, 60, 100];

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Canary {
    /// One for each weight.
    steps: Vec<Step>,
    /// Users who saw both versions at one weight.
    torn: usize,
    /// Users who had the new version and got the old one again.
    moved_back: usize,
    /// Requests that failed.
    failed: u64,
}

/// One weight of the new version.
#[derive(Clone, Debug, Serialize)]
struct Step {
    weight: u32,
    users_of_v1: usize,
    users_of_v2: usize,
}

/// Plays the scene.
pub(super) async fn run(time: Duration, mesh: &Mesh, view: &mut View) -> anyhow::Result<Canary> {
    view.scene("`reviews` v2 is raised in steps: a user who got it keeps it");
    let raise = async |weight: u32| {
        let route = topology::route([100 - weight, weight]);
        mesh.apply(topology::ROUTE_FILE, &route).await
    };
    raise(0).await?;
    mesh.apply("reviews-policy.yaml", POLICY).await?;
    let caller = Caller {
        name: CALLER,
        rate: 150,
        users: USERS,
    };
    let traffic = Traffic::start(mesh.way_out(topology::SPLIT)?, topology::SPLIT, &[caller]);
    let mut canary = Canary {
        steps: Vec::new(),
        torn: 0,
        moved_back: 0,
        failed: 0,
    };
    let mut had_v2 = BTreeSet::new();
    // Every user needs two turns at least.
    let round = Duration::from_millis(u64::from(USERS) * 1000 / 150);
    let pause = (time / 5).max(round * 5 / 2);
    for weight in STEPS {
        raise(weight).await?;
        // Answers of the step before are still under way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        canary.failed += traffic.take(CALLER).refused;
        tokio::time::sleep(pause).await;
        let tally = traffic.take(CALLER);
        canary.failed += tally.refused;
        let mut versions: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        for (user, seen) in &tally.users {
            versions.insert(*user, seen.iter().map(String::as_str).collect());
        }
        let v2: BTreeSet<u32> = versions
            .iter()
            .filter(|(_, seen)| seen.contains("v2"))
            .map(|(user, _)| *user)
            .collect();
        canary.torn += versions.values().filter(|seen| seen.len() > 1).count();
        canary.moved_back += versions
            .iter()
            .filter(|(user, seen)| had_v2.contains(*user) && seen.contains("v1"))
            .count();
        let step = Step {
            weight,
            users_of_v1: versions.len() - v2.len(),
            users_of_v2: v2.len(),
        };
        view.note(&format!(
            "{weight} %: {} of {} users have v2; {} went back to v1",
            step.users_of_v2,
            versions.len(),
            canary.moved_back
        ));
        canary.steps.push(step);
        had_v2.extend(v2);
    }
    traffic.finish().await;
    mesh.remove("reviews-policy.yaml").await?;
    Ok(canary)
}
