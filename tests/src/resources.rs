//! Envoy messages written as YAML, for the fake xDS server: any message Envoy has, also those that
//! the product does not know.

use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::de::DeserializeSeed as _;

/// An `Any` as it travels.
pub use envoy_types::pb::google::protobuf::Any;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(env!("ENVOY_DESCRIPTORS")).as_slice())
        .expect("envoy-types ships a whole descriptor set")
});

/// The message types of xDS by their short names.
pub fn type_url(short: &str) -> String {
    let name = match short {
        "Listener" => "envoy.config.listener.v3.Listener",
        "RouteConfiguration" => "envoy.config.route.v3.RouteConfiguration",
        "Cluster" => "envoy.config.cluster.v3.Cluster",
        "ClusterLoadAssignment" => "envoy.config.endpoint.v3.ClusterLoadAssignment",
        whole => whole,
    };
    format!("type.googleapis.com/{name}")
}

/// Reads one message of the type (short or full name) from YAML.
pub fn from_yaml(type_name: &str, yaml: &str) -> Result<Any> {
    from_json(type_name, &serde_norway::from_str(yaml)?)
}

/// The same from a JSON value.
pub fn from_json(type_name: &str, json: &serde_json::Value) -> Result<Any> {
    let type_url = type_url(type_name);
    let name = type_url.trim_start_matches("type.googleapis.com/");
    let descriptor = POOL
        .get_message_by_name(name)
        .with_context(|| format!("no type {name}"))?;
    let message: DynamicMessage = descriptor.deserialize(json)?;
    Ok(Any {
        value: message.encode_to_vec(),
        type_url,
    })
}
