//! `FaultPolicy`: delays and failures on purpose, for a limited time.

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::{HeaderMatch, Percent, PolicySpec, Span, TargetRef};
use crate::model::Kind;

/// `spec` of a `FaultPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultSpec {
    /// What it is attached to.
    pub target_refs: Vec<TargetRef>,
    /// How long it is in force, from when it was first seen.
    pub ttl: Span,
    /// Requests wait.
    #[serde(default)]
    pub delay: Option<Delay>,
    /// Requests are answered without being sent on.
    #[serde(default)]
    pub abort: Option<Abort>,
    /// Only requests with all of these.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
    /// So many faults at once.
    #[serde(default)]
    pub max_active: Option<u32>,
    /// Stamped by the source, which has a clock.
    #[serde(skip)]
    pub life: Life,
}

impl PolicySpec for FaultSpec {
    const KIND: Kind = Kind::FaultPolicy;

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }

    fn lapsed(&self) -> Option<String> {
        match self.life {
            Life::Expired(at) => Some(format!("its time to live was over at {at}")),
            Life::Unstamped | Life::Until(_) => None,
        }
    }

    fn note(&self) -> String {
        match self.life {
            Life::Until(at) => format!("until {at}"),
            Life::Unstamped | Life::Expired(_) => String::new(),
        }
    }
}

/// Whether a fault's time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Nobody keeps its time: checked offline.
    #[default]
    Unstamped,
    /// In force until then.
    Until(Timestamp),
    /// No longer in force, since then.
    Expired(Timestamp),
}

/// `spec.delay`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// How long.
    pub duration: Span,
    /// Of how many of 100 requests.
    pub percent: Percent,
}

/// `spec.abort`: either status is set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// The HTTP status of the answer.
    #[serde(default)]
    pub http_status: Option<u16>,
    /// The gRPC status of the answer.
    #[serde(default)]
    pub grpc_status: Option<u32>,
    /// Of how many of 100 requests.
    pub percent: Percent,
}
