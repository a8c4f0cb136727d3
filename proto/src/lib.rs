//! Envoy's API types, and messages read from JSON or YAML text with exact field paths.
//!
//! This crate owns the shape of the configuration and nothing of its meaning:
//!
//! * [`envoy`], [`google`] and [`xds`] re-export the generated types and gRPC services of the
//!   xDS API; [`outrigger`] has our own extensions of it;
//! * [`parse_yaml`] and [`message_from_value`] turn text into a message and find every error of
//!   one text in one run; [`value_from_message`] and [`any_to_value`] go the other way;
//! * [`validate()`] checks the protoc-gen-validate rules that Envoy enforces, on wire bytes, so the
//!   xDS path needs no descriptor pool; [`decode_any`] and [`decode_resource`] combine it with a
//!   typed decode;
//! * [`compile_whole_regex`] and [`compile_regex`] read regular expressions by RE2's rules.
//!
//! Which extension types can be named in a `typed_config` is listed in `build/extensions.rs`.
//!
//! Messages of our own are in `proto/outrigger/`, compiled by `build/own.rs` without `protoc`. In text,
//! in an `Any` and in validation they are no different from Envoy's.

/// Envoy's API, as `envoy::config::listener::v3::Listener` and so on.
pub mod envoy {
    pub use envoy_types::pb::envoy::*;
}

/// Google's well-known types: `google::protobuf::{Any, Duration, Struct, …}` and `google::rpc`.
pub mod google {
    pub use envoy_types::pb::google::{protobuf, rpc};
}

/// The xDS working group's types that Envoy's API refers to (matchers, resource locators).
pub mod xds {
    pub use envoy_types::pb::xds::*;
}

/// Outrigger's own extensions of Envoy's API.
pub mod outrigger {
    /// Types for a `typed_config`.
    pub mod extensions {
        /// Filters.
        pub mod filters {
            /// HTTP filters.
            pub mod http {
                /// Limits on requests in progress, with a fair queue.
                pub mod bulkhead {
                    /// May still change.
                    pub mod v1alpha1 {
                        include!(concat!(
                            env!("OUT_DIR"),
                            "/outrigger.extensions.filters.http.bulkhead.v1alpha1.rs"
                        ));
                    }
                }
            }
        }
        /// Load balancers.
        pub mod load_balancing_policies {
            /// Avoids slow hosts.
            pub mod peak_ewma {
                /// May still change.
                pub mod v1alpha1 {
                    include!(concat!(
                        env!("OUT_DIR"),
                        "/outrigger.extensions.load_balancing_policies.peak_ewma.v1alpha1.rs"
                    ));
                }
            }
        }
    }
}

mod decode;
mod error;
mod re2;
mod schema;
mod text;
mod validate;

pub use decode::{decode_any, decode_resource};
pub use error::{FieldError, TextError};
pub use re2::{compile_regex, compile_whole_regex};
pub use schema::{FieldInfo, fields};
pub use text::{
    Reading, any_to_value, message_from_value, parse_yaml, read_message, value_from_message,
};
pub use validate::validate;
