//! Other projects' parts beside ours: Envoy's Go control plane in front of our proxy, and Envoy
//! behind our control plane.

mod envoy;
mod go_control_plane;

use outrigger_tests::proxy::Kind;

/// Runs one test; the proxy and the form of xDS are in the failure.
fn check<F: Future<Output = anyhow::Result<()>>>(
    kind: Kind,
    delta: bool,
    test: impl FnOnce() -> F,
) {
    let form = if delta { "delta" } else { "state of the world" };
    if let Err(error) = outrigger_tests::block_on(test()) {
        panic!("{}, {form}: {error:#}", kind.name());
    }
}
