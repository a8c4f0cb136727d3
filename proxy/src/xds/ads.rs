//! The aggregated stream, reached through one of our own clusters.

use std::sync::Arc;

use outrigger_xds::{
    Form,
    backoff::Backoff,
    client::grpc::{self, Config, Connector, Keepalive},
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    config::{bootstrap::Node, source::AdsConfig},
    upstream::Cluster,
};

/// What runs the stream: `clusters` are those that the configuration names, in order of preference.
pub(super) fn config(ads: &AdsConfig, node: &Node, clusters: Vec<Arc<Cluster>>) -> Config {
    let authority = ads.authority.clone();
    Config {
        form: if ads.delta { Form::Delta } else { Form::Sotw },
        node: node.raw.clone(),
        connector: Connector::new(move |attempt| {
            let endpoint = endpoint(&clusters, authority.as_deref(), attempt);
            async move { connect(endpoint?).await }
        }),
        backoff: Backoff::default(),
    }
}

async fn connect(endpoint: Endpoint) -> Result<Channel, String> {
    let address = endpoint.uri().to_string();
    endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), ToString::to_string);
        format!("{address}: {cause}")
    })
}

/// Attempts go round all hosts of all clusters, so that one dead replica does not hold us up.
fn endpoint(
    clusters: &[Arc<Cluster>],
    authority: Option<&str>,
    attempt: u64,
) -> Result<Endpoint, String> {
    let hosts = clusters
        .iter()
        .flat_map(|cluster| {
            let set = cluster.hosts.load();
            set.hosts
                .iter()
                .map(|host| (host.address, cluster.config.connect_timeout))
                .collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();
    let names = || {
        clusters
            .iter()
            .map(|cluster| cluster.name().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let count = u64::try_from(hosts.len()).unwrap_or(u64::MAX);
    let index = attempt
        .saturating_sub(1)
        .checked_rem(count)
        .ok_or_else(|| format!("no host of cluster {} is known", names()))?;
    let (address, connect_timeout) = usize::try_from(index)
        .ok()
        .and_then(|index| hosts.get(index))
        .copied()
        .ok_or_else(|| format!("no host of cluster {} is known", names()))?;
    let keepalive = Keepalive {
        connect_timeout,
        ..Keepalive::default()
    };
    let mut endpoint = grpc::endpoint(&address.to_string(), keepalive)?;
    if let Some(authority) = authority {
        let origin = format!("http://{authority}")
            .parse::<Uri>()
            .map_err(|error| format!("authority {authority}: {error}"))?;
        endpoint = endpoint.origin(origin);
    }
    Ok(endpoint)
}
