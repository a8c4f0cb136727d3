//! The xDS protocol: client and server halves as state machines without I/O, and their gRPC adapters.
//!
//! This crate knows nothing of what a listener or a cluster means. A resource is a name, a version
//! and the bytes of a message of a type; [`TypeUrl`] only knows the order between types and which
//! of them are always sent whole in the state-of-the-world form.
//!
//! * [`client::Client`] follows one ADS stream; [`client::grpc`] runs it over tonic and reconnects.
//! * [`server::Stream`] serves one ADS stream from a [`server::Snapshot`]; [`server::grpc`] is the
//!   tonic service around it.
//!
//! Both machines take messages and times, and are polled for what to send: no tokio inside.

pub mod backoff;
pub mod client;
mod message;
pub mod server;
mod types;

pub use message::{Request, Response};
pub use types::{Form, TypeUrl, WILDCARD};

/// Envoy's description of the one who opens a stream.
pub use outrigger_proto::envoy::config::core::v3::Node;

pub(crate) use outrigger_proto::envoy::service::discovery::v3 as discovery;
pub(crate) use outrigger_proto::google::protobuf::Any;
pub(crate) use outrigger_proto::google::rpc::Status as RpcStatus;

/// `google.rpc.Code.INVALID_ARGUMENT`, the code of every NACK.
pub(crate) const INVALID_ARGUMENT: i32 = 3;

/// `google.rpc.Code.NOT_FOUND`: a server's way to say that a resource does not exist.
pub(crate) const NOT_FOUND: i32 = 5;
