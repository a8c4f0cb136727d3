//! `tls_inspector.…` and `http_inspector.…` statistics; of all listeners together, as in Envoy.

use crate::telemetry::stats::{Counter, Registry};

macro_rules! stats {
    ($($field:ident = $name:literal),* $(,)?) => {
        /// Handles, resolved when a listener with filters is built.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "each field is the metric that it is named after")]
        pub struct Stats { $(pub $field: Counter,)* }

        impl Stats {
            /// Resolves the handles.
            #[must_use]
            pub fn new(registry: &Registry) -> Self {
                let scope = registry.scope("");
                Self { $($field: scope.counter($name),)* }
            }
        }
    };
}

stats! {
    client_hello_too_large = "tls_inspector.client_hello_too_large",
    tls_found = "tls_inspector.tls_found",
    tls_not_found = "tls_inspector.tls_not_found",
    sni_found = "tls_inspector.sni_found",
    sni_not_found = "tls_inspector.sni_not_found",
    alpn_found = "tls_inspector.alpn_found",
    alpn_not_found = "tls_inspector.alpn_not_found",
    http10_found = "http_inspector.http10_found",
    http11_found = "http_inspector.http11_found",
    http2_found = "http_inspector.http2_found",
    http_not_found = "http_inspector.http_not_found",
}
