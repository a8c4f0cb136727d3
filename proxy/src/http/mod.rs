//! The HTTP side of a downstream connection: codecs, the life of a stream, headers, bodies and the
//! replies that the proxy makes itself.

pub mod activity;
pub mod body;
pub mod connection;
pub mod connection_manager;
pub mod h2_body;
pub mod headers;
mod http1;
mod http2;
pub mod io;
pub mod local_reply;
mod mismatch;
mod path;
mod request_body;
pub mod request_id;
mod response_body;
mod routing;
pub mod stats;
pub mod stream;
pub mod stream_cx;
pub mod strict;
#[cfg(test)]
mod tests;
mod upgrade;

pub use activity::{Activity, Late};
pub use body::{Body, BodyError};
pub use local_reply::LocalReply;
pub use stream_cx::{DownstreamCx, StreamCx, Upgrade};

/// A request as filters and the router see it.
pub type Request = ::http::Request<Body>;
/// A response as filters and the codecs see it.
pub type Response = ::http::Response<Body>;
