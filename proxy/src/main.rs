//! The data plane: an Envoy-compatible sidecar proxy.

mod allocator;

use std::process::ExitCode;

use clap::Parser as _;
use outrigger_proxy::{app, args::Args};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    // Where huge pages are always on, the kernel would make them of stacks and of the heap's first
    // pages too. A kernel without them has nothing to switch off.
    nix::sys::prctl::set_thp_disable(true).unwrap_or_default();
    app::main(&Args::parse())
}
