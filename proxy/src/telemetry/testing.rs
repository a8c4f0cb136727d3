//! Parts that tests of several modules need.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::stream_info::{ConnectionInfo, StreamInfo};
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

/// The record of a stream that has just begun.
pub(crate) fn stream_info() -> StreamInfo {
    let connection = ConnectionInfo {
        id: 7,
        remote: "10.0.0.1:4444".parse().unwrap(),
        local: "127.0.0.1:18080".parse().unwrap(),
        listener: Arc::new(listener()),
        start: Instant::now(),
    };
    let mut info = StreamInfo::new(Rc::new(connection), http::Version::HTTP_11);
    info.start_time = UNIX_EPOCH + Duration::new(1_795_568_811, 874_510_000);
    info
}
