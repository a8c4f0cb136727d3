//! Admission: `outrigger injector` as a process, a client of its HTTPS, a Service before its replicas, and a
//! real API server that calls it.

mod api_server;
mod injector;
mod service;

pub use api_server::{ApiServer, SERVICES, built};
pub use injector::{Https, Injector, Reply, program, review, tls};
pub use service::Service;

use std::time::Duration;

/// No step of a test takes longer, on a busy machine either.
pub const DEADLINE: Duration = Duration::from_secs(60);
