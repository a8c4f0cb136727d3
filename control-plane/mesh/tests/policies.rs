//! Whatever policies there are, each target has one, the right one; and the same mesh is always
//! translated to the same bytes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use outrigger_mesh::{Model, Translator, parse, scope::Scope, status::ConditionStatus};
use outrigger_proto::envoy::config::cluster::v3::Cluster;
use proptest::prelude::*;
use prost::Message;

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: s0}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: s1}, spec: {ports: [{name: http, port: 80}]}}
";

/// A policy: its age, the service, and whether it is of the port alone.
type Drawn = (Option<u8>, u8, bool);

fn mesh(policies: &[Drawn]) -> String {
    let mut text = SERVICES.to_owned();
    for (index, (day, service, of_port)) in policies.iter().enumerate() {
        let created = day.map_or_else(String::new, |day| {
            format!(", creationTimestamp: '2026-01-{day:02}T00:00:00Z'")
        });
        let section = if *of_port { ", sectionName: http" } else { "" };
        write!(
            text,
            "---\n{{apiVersion: outrigger.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: \
             p{index}{created}}}, spec: {{targetRefs: [{{group: '', kind: Service, name: \
             s{service}{section}}}], circuitBreaker: {{maxRequests: {}}}}}}}\n",
            index + 1
        )
        .unwrap();
    }
    text
}

fn model(text: &str) -> Arc<Model> {
    let parsed = parse::parse_file("mesh.yaml", text);
    assert!(parsed.is_valid(), "{:?}\n{text}", parsed.findings);
    let objects = parsed.objects.into_iter().map(|located| located.object);
    Arc::new(Model::build(1, objects))
}

proptest! {
    #[test]
    fn the_oldest_then_the_first_by_name_is_in_force(
        policies in prop::collection::vec(
            (prop::option::of(1u8..4), 0u8..2, any::<bool>()), 0..8)
    ) {
        // By target: the undated last, then by age, then by name.
        let mut winners: BTreeMap<(u8, bool), (bool, Option<u8>, usize)> = BTreeMap::new();
        for (index, (day, service, of_port)) in policies.iter().enumerate() {
            let rank = (day.is_none(), *day, index);
            let best = winners.entry((*service, *of_port)).or_insert(rank);
            *best = rank.min(*best);
        }
        let model = model(&mesh(&policies));
        for (index, (_, service, of_port)) in policies.iter().enumerate() {
            let status = model.statuses().iter().find(|(object, _)| *object.id.name == *format!("p{index}"));
            let condition = &status.unwrap().1.parents[0].conditions[0];
            let wins = winners[&(*service, *of_port)].2 == index;
            prop_assert_eq!(condition.status == ConditionStatus::True, wins, "p{} {:?}", index, condition);
            prop_assert_eq!(condition.reason, if wins { "Accepted" } else { "Conflicted" });
        }
        // The policy of the port is closer than that of the service.
        let resources = Translator::new(model, None).scope(&Scope::all("default"));
        for service in 0..2u8 {
            let name = format!("outbound|80||s{service}.default.svc.cluster.local");
            let cluster = Cluster::decode(&*resources.clusters[&*name].body).unwrap();
            let limit = cluster.circuit_breakers
                .and_then(|breakers| breakers.thresholds[0].max_requests)
                .map(|limit| limit.value as usize);
            let closest = winners.get(&(service, true)).or_else(|| winners.get(&(service, false)));
            prop_assert_eq!(limit, closest.map(|(_, _, index)| index + 1));
        }
    }
}

#[test]
fn the_same_mesh_is_always_the_same_bytes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/limits/mesh.yaml");
    let text = std::fs::read_to_string(folder).unwrap();
    // Hash maps of a new model have other seeds.
    let translate = || Translator::new(model(&text), None).scope(&Scope::all("shop"));
    let first = translate();
    for _ in 0..50 {
        assert!(translate() == first);
    }
}
