//! The bootstrap (`envoy.config.bootstrap.v3.Bootstrap`).

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{
    cluster::Cluster,
    listener::Listener,
    source::{AdsConfig, ConfigSource},
};

/// Everything that a proxy starts from.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Identity sent to management servers.
    pub node: Node,
    /// `static_resources.listeners`.
    pub listeners: Vec<Arc<Listener>>,
    /// `static_resources.clusters`.
    pub clusters: Vec<Arc<Cluster>>,
    /// `dynamic_resources.lds_config`.
    pub lds: Option<ConfigSource>,
    /// `dynamic_resources.cds_config`.
    pub cds: Option<ConfigSource>,
    /// `dynamic_resources.ads_config`.
    pub ads: Option<AdsConfig>,
    /// The admin endpoint.
    pub admin: Option<Admin>,
    /// `stats_flush_interval`: how often histograms' interval values roll. Default 5 s.
    pub stats_flush_interval: Duration,
    /// `cluster_manager.outlier_detection.event_log_path`.
    pub outlier_event_log: Option<PathBuf>,
    /// Stamp for `/config_dump`: the message as loaded, for display.
    pub raw: Arc<outrigger_proto::envoy::config::bootstrap::v3::Bootstrap>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `--service-node` wins over the file.
    pub id: Arc<str>,
    /// `--service-cluster` wins over the file.
    pub cluster: Arc<str>,
    /// As sent on the stream.
    pub raw: outrigger_proto::envoy::config::core::v3::Node,
}

/// `envoy.config.bootstrap.v3.Admin`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// Access logs of admin requests.
    pub access_log: Vec<super::access_log::AccessLog>,
}
