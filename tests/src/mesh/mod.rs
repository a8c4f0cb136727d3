//! A mesh of real processes: control plane, sidecars, services, load, and another project's xDS
//! server.

mod control_plane;
mod go_control_plane;
mod load;
pub mod objects;
pub mod ports;
mod service;
mod sidecar;

pub use control_plane::{ControlPlane, outrigger, validate};
pub use go_control_plane::{Event, GoControlPlane};
pub use load::Load;
pub use service::Service;
pub use sidecar::{Sidecar, listening};

use std::time::Duration;

/// No step of a test takes longer, on a busy machine either.
pub const DEADLINE: Duration = Duration::from_secs(20);
