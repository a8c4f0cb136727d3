//! Parts that tests of several modules need.

use crate::config::listener::{DrainType, Listener, TrafficDirection};

/// A listener without filter chains.
pub(crate) fn listener() -> Listener {
    Listener {
        name: "l1".into(),
        addresses: vec!["127.0.0.1:18080".parse().unwrap()],
        stat_prefix: None,
        filter_chains: Vec::new(),
        per_connection_buffer_limit_bytes: 1 << 20,
        direction: TrafficDirection::Unspecified,
        drain_type: DrainType::Default,
        tcp_backlog_size: None,
        reuse_port: true,
        tcp_keepalive: None,
        freebind: false,
        access_log: Vec::new(),
    }
}
