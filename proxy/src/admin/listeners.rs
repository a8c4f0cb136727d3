//! `/listeners`.

use std::{fmt::Write, net::SocketAddr};

use serde_json::{Value, json};

use super::{Context, query::Query, serve::Reply};
use crate::listener::Active;

pub(super) fn show(query: Query<'_>, context: &Context) -> Reply {
    let snapshot = context.publisher.current();
    match query.value("format").as_deref() {
        Some("json") => {
            let statuses: Vec<Value> = snapshot
                .listeners
                .iter()
                .map(|listener| status(listener))
                .collect();
            Reply::json(&json!({"listener_statuses": statuses}))
        }
        _ => {
            let mut text = String::new();
            for listener in &snapshot.listeners {
                for address in addresses(listener) {
                    // Writing to a String cannot fail.
                    let _infallible = writeln!(text, "{}::{address}", listener.config.name);
                }
            }
            Reply::text(text)
        }
    }
}

fn addresses(listener: &Active) -> impl Iterator<Item = SocketAddr> + '_ {
    listener.sockets.iter().map(|sockets| sockets.address())
}

fn status(listener: &Active) -> Value {
    let mut addresses = addresses(listener).map(socket_address);
    let mut status = json!({"name": &*listener.config.name, "local_address": addresses.next()});
    let additional: Vec<Value> = addresses.collect();
    if !additional.is_empty() {
        status["additional_local_addresses"] = Value::Array(additional);
    }
    status
}

/// An address as `envoy.config.core.v3.Address`.
pub(super) fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }})
}
