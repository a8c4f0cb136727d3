//! Any bytes as a resource of each type, the way that xDS takes them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_proto::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use outrigger_proxy::{
    config::from_proto,
    convert::{Cx, Sink},
};
use prost::{Message, Name};

fn take<M: Message + Default + Name, T>(
    bytes: &[u8],
    convert: impl FnOnce(&Cx<'_>, M) -> Option<T>,
) {
    if let Ok(message) = outrigger_proto::decode_resource::<M>(bytes) {
        let sink = Sink::new();
        let value = convert(&sink.root(""), message);
        // Nothing is refused without a reason.
        if let Err(errors) = sink.finish(value) {
            assert!(!errors.is_empty());
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 4 {
        0 => take::<Cluster, _>(bytes, from_proto::cluster),
        1 => take::<ClusterLoadAssignment, _>(bytes, from_proto::load_assignment),
        2 => take::<Listener, _>(bytes, from_proto::listener),
        _ => take::<RouteConfiguration, _>(bytes, |cx, proto| {
            from_proto::route_configuration(cx, proto, false)
        }),
    }
});
