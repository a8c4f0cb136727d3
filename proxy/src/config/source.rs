//! Where a resource comes from (`envoy.config.core.v3.ConfigSource`).

use std::{path::PathBuf, sync::Arc, time::Duration};

/// A reference to dynamically discovered resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// The transport.
    pub kind: SourceKind,
    /// How long warming waits for the first answer; zero waits for ever. Envoy's default: 15 s.
    pub initial_fetch_timeout: Duration,
}

/// The transport of a [`ConfigSource`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// The aggregated stream of `dynamic_resources.ads_config` (also `self`).
    Ads,
    /// A file that holds a `DiscoveryResponse`, watched for atomic replacement.
    Path(PathSource),
}

/// A watched file (`path_config_source`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathSource {
    /// The file.
    pub path: PathBuf,
    /// Watch this directory for moves instead of the file's own.
    pub watched_directory: Option<PathBuf>,
}

/// The stream of `dynamic_resources.ads_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdsConfig {
    /// Delta (incremental) instead of state-of-the-world.
    pub delta: bool,
    /// The cluster, or clusters in order of preference, that the management server lives in.
    pub clusters: Vec<Arc<str>>,
    /// `:authority` of the stream, if set on the gRPC service.
    pub authority: Option<Arc<str>>,
}
