//! Connection pools of one worker.

/// The pools of one worker, by host.
#[derive(Debug, Default)]
pub struct Pools {}
