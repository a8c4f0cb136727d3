//! Small pieces of Envoy's API that every translation uses.

use std::{net::SocketAddr, time::Duration};

use outrigger_proto::{
    envoy::config::core::v3 as core,
    google::protobuf::{self, Any},
};
use prost::{Message, Name};

/// The key of what our proxy reads of metadata.
const OWN: &str = "outrigger.dev";

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub(super) fn boolean(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

pub(super) fn number(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

pub(super) fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        // A Gateway API duration is at most 99999 hours four times over.
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                address.port().into(),
            )),
            ..Default::default()
        })),
    }
}

/// "Over the stream that this came from", however long that takes: what refers to it is not ready before.
pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        initial_fetch_timeout: Some(duration(Duration::ZERO)),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

/// Names the object of the mesh that something is made of, as our proxy's reasons tell it.
pub(super) fn origin(object: &str) -> core::Metadata {
    own_metadata("origin", object)
}

/// The same for a message that holds the fields without [`core::Metadata`] around them.
pub(super) fn origin_fields(object: &str) -> protobuf::Struct {
    let fields = protobuf::Value {
        kind: Some(protobuf::value::Kind::StructValue(own_fields(
            "origin", object,
        ))),
    };
    protobuf::Struct {
        fields: [(OWN.to_owned(), fields)].into(),
    }
}

/// Asks our proxy to move users only towards a backend whose weight grows. Envoy has no such rule.
pub(super) fn monotone() -> core::Metadata {
    own_metadata("sticky", "monotone")
}

/// Asks our proxy for what the name alone says, with its defaults.
pub(super) fn empty_metadata(name: &str) -> core::Metadata {
    core::Metadata {
        filter_metadata: [(name.to_owned(), protobuf::Struct::default())].into(),
        ..Default::default()
    }
}

fn own_metadata(key: &str, text: &str) -> core::Metadata {
    core::Metadata {
        filter_metadata: [(OWN.to_owned(), own_fields(key, text))].into(),
        ..Default::default()
    }
}

fn own_fields(key: &str, text: &str) -> protobuf::Struct {
    let value = protobuf::Value {
        kind: Some(protobuf::value::Kind::StringValue(text.to_owned())),
    };
    protobuf::Struct {
        fields: [(key.to_owned(), value)].into(),
    }
}
