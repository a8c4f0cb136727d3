//! The data plane: an Envoy-compatible sidecar proxy.

fn main() {}
