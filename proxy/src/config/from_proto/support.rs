//! The support table: what each conversion says of its message's fields.

use outrigger_proto::envoy::{
    config::{
        bootstrap::v3::Bootstrap, cluster::v3::Cluster, core::v3,
        endpoint::v3::ClusterLoadAssignment, listener::v3::Listener, route::v3::RouteConfiguration,
    },
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};

use crate::convert::{Recorder, Sink};

/// Runs each conversion on an empty message and tells what it said of every field.
#[must_use]
pub fn support_table() -> Recorder {
    let sink = Sink::recording();
    {
        let cx = sink.root("");
        // The results are of no interest: an empty message is not valid.
        drop(super::bootstrap(&cx, Bootstrap::default()));
        drop(super::listener(&cx, Listener::default()));
        drop(super::cluster(&cx, Cluster::default()));
        drop(super::load_assignment(
            &cx,
            ClusterLoadAssignment::default(),
        ));
        drop(super::route_configuration(
            &cx,
            RouteConfiguration::default(),
            true,
        ));
        drop(super::http_connection_manager::http_connection_manager(
            &cx,
            HttpConnectionManager::default(),
        ));
        drop(super::source::config_source(
            &cx,
            v3::ConfigSource::default(),
        ));
        drop(super::source::ads_config(
            &cx,
            v3::ApiConfigSource::default(),
        ));
    }
    sink.into_recorder()
}
