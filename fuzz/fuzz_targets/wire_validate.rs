//! Any bytes as any resource: the rules and the decoder agree on what can be read, and what is read is
//! written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_proto::envoy::config::{
    bootstrap::v3::Bootstrap, cluster::v3::Cluster, listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use prost::{Message, Name};

fn check<M: Message + Default + Name>(bytes: &[u8]) {
    let errors = outrigger_proto::validate(&M::full_name(), bytes);
    if let Ok(message) = outrigger_proto::decode_resource::<M>(bytes) {
        assert!(errors.is_empty());
        outrigger_proto::value_from_message(&message).expect("every resource can be written");
    }
}

fuzz_target!(|bytes: &[u8]| {
    check::<Bootstrap>(bytes);
    check::<Cluster>(bytes);
    check::<Listener>(bytes);
    check::<RouteConfiguration>(bytes);
});
