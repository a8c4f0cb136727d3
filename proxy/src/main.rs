//! The data plane: an Envoy-compatible sidecar proxy.

use std::process::ExitCode;

use clap::Parser as _;
use outrigger_proxy::{app, args::Args};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    app::main(&Args::parse())
}
