//! What meshes translate to is accepted by our own proxy's loader, without a field that it refuses: the
//! golden meshes of `mesh/tests/golden`, and whatever policies and routes pass our own checks.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test")]

mod objects;

use std::{fs, path::Path, sync::Arc};

use outrigger_mesh::{
    Model, Translator, parse,
    scope::Node,
    translate::{ResourceMap, Resources},
};
use outrigger_proto::{
    decode_resource,
    envoy::config::{
        cluster::v3::Cluster, core::v3 as core, endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener, route::v3::RouteConfiguration,
    },
    message_from_value, parse_yaml,
};
use outrigger_proxy::{
    config::from_proto,
    convert::{Cx, Sink},
};
use prost::{Message, Name};

#[test]
fn our_proxy_accepts_every_golden_mesh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh/tests/golden");
    let mut errors = Vec::new();
    let mut count = 0;
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let text = fs::read_to_string(folder.join("mesh.yaml")).unwrap();
        let objects = parse::parse_file("mesh.yaml", &text).objects;
        let model = Model::build(1, objects.into_iter().map(|located| located.object));
        let node = fs::read_to_string(folder.join("node.yaml")).unwrap();
        let resources = Translator::new(Arc::new(model), None).translate(&self::node(&node));
        let mesh = folder.file_name().unwrap().to_string_lossy().into_owned();
        let refused = refused(&resources);
        errors.extend(refused.iter().map(|error| format!("{mesh} {error}")));
        count += resources.clusters.len() + resources.routes.len();
    }
    assert!(count > 20, "only {count} resources");
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

fn node(text: &str) -> Node {
    let node: core::Node = message_from_value(parse_yaml(text).unwrap()).unwrap();
    Node::from_proto(&node).unwrap()
}

/// What our proxy says against resources.
fn refused(resources: &Resources) -> Vec<String> {
    let mut errors = Vec::new();
    let mut take = |kind: &str, found: Vec<String>| {
        errors.extend(found.iter().map(|error| format!("{kind} {error}")));
    };
    take(
        "cluster",
        convert::<Cluster, _>(&resources.clusters, from_proto::cluster),
    );
    take(
        "endpoints",
        convert::<ClusterLoadAssignment, _>(&resources.endpoints, from_proto::load_assignment),
    );
    take(
        "listener",
        convert::<Listener, _>(&resources.listeners, from_proto::listener),
    );
    take(
        "routes",
        convert::<RouteConfiguration, _>(&resources.routes, |cx, proto| {
            from_proto::route_configuration(cx, proto, false)
        }),
    );
    errors
}

fn convert<M: Message + Default + Name, T>(
    resources: &ResourceMap,
    convert: impl Fn(&Cx<'_>, M) -> Option<T>,
) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, resource) in resources {
        match decode_resource::<M>(&resource.body) {
            Ok(message) => {
                let sink = Sink::new();
                let value = convert(&sink.root(""), message);
                if let Err(found) = sink.finish(value) {
                    errors.extend(found.iter().map(|error| format!("{name}: {error}")));
                }
            }
            Err(found) => errors.push(format!("{name}: {found:?}")),
        }
    }
    errors
}
