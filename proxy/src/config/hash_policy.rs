//! What of a request its hash is made from (`envoy.config.route.v3.RouteAction.HashPolicy`).

use std::sync::Arc;

use bytes::Bytes;

use super::matcher::HeaderKey;

/// One policy of a list; all that find something count, up to a terminal one.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Policies that follow do not count if there is a hash after this one.
    pub terminal: bool,
}

/// `HashPolicy.policy_specifier`.
#[derive(Clone, Debug)]
pub enum HashSource {
    /// The values of a header.
    Header {
        /// Which.
        name: HeaderKey,
        /// Replaces every match in a value first.
        rewrite: Option<(regex::bytes::Regex, Bytes)>,
    },
    /// The value of a cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// What follows name and value in `set-cookie`, if a missing cookie is made.
        attributes: Option<Arc<str>>,
    },
    /// The IP address of the client.
    SourceIp,
    /// The first value of a query parameter.
    QueryParameter(Arc<str>),
}
