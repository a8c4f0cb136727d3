//! The load: as many requests as go (closed loop), or arrivals of a Poisson process at a given
//! rate (open loop), with latency counted from the due time.

mod arrivals;
mod http1;
mod http2;
pub mod open;
mod progress;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

pub(crate) use arrivals::Arrivals;
pub(crate) use http1::whole_reply;
pub(crate) use progress::Progress;

use crate::config::{Chain, HOSTS, ROUTES};

/// The body of every message.
pub const BODY: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\
    0123456789abcdefghijklmnopqr";

/// How many requests differ from each other.
const TARGETS: usize = HOSTS * ROUTES;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, 100-byte replies, 64 connections.
    Http1,
    /// HTTP/2 like gRPC: 100-byte messages both ways, trailers, 10 connections with 10 streams.
    Http2,
}

impl Protocol {
    /// A line for the report.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1, 100 B, 64 connections",
            Self::Http2 => "HTTP/2, gRPC-like, 10 x 10 streams",
        }
    }
}

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Every connection or stream sends its next request at once.
    Saturate,
    /// Arrivals per second, as a Poisson process.
    Rate(f64),
}

/// What one measurement of the load saw.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Requests answered well.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Latencies in nanoseconds, from the due time.
    pub latencies: Vec<u64>,
}

impl Sample {
    pub(crate) fn record(&mut self, due: Instant) {
        self.done += 1;
        let nanos = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latencies.push(nanos);
    }
}

/// Drives one proxy for a while and waits for the last reply.
pub async fn drive(
    protocol: Protocol,
    chain: Chain,
    address: SocketAddr,
    pace: Pace,
    duration: Duration,
) -> Result<Sample> {
    let sample = match protocol {
        Protocol::Http1 => http1::drive(address, chain, pace, duration).await?,
        Protocol::Http2 => http2::drive(address, chain, pace, duration).await?,
    };
    ensure!(sample.done > 0, "no request was answered");
    Ok(sample)
}
