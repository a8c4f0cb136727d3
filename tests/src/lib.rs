//! The kit of the whole-system tests: scriptable upstreams and clients, runners for real proxies,
//! a fake xDS server, and the two suites built on them (`parity` beside Envoy, `bad` input).
//!
//! Every suite drives the binaries that users run. Of the product, only `mesh` links a part: what the
//! control plane expects in a sidecar's bootstrap.

#[cfg(feature = "xds")]
pub mod ads;
#[cfg(feature = "xds")]
pub mod bad;
pub mod client;
pub mod frames;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "mesh")]
pub mod mesh;
#[cfg(feature = "netns")]
pub mod netns;
pub mod parity;
pub mod process;
pub mod proxy;
#[cfg(feature = "xds")]
pub mod resources;
pub mod upstream;
pub mod wait;

/// Starts a runtime on the calling thread and runs a test to its end.
///
/// One thread, because a child process dies with the thread that started it
/// (see [`process::Process`]).
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only memory and an epoll descriptor")
        .block_on(future)
}
