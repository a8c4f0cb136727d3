//! The incremental form on the client's side: how a request is made, how a response is read.

use std::collections::HashMap;

use super::response::{Content, Incoming, plain_name, unwrap_resource};
use super::sotw::error_detail;
use super::subscription::Subscription;
use crate::{Node, TypeUrl, WILDCARD, discovery};

pub(super) fn read(type_url: &TypeUrl, response: discovery::DeltaDiscoveryResponse) -> Incoming {
    let discovery::DeltaDiscoveryResponse {
        system_version_info,
        resources,
        type_url: _,
        removed_resources,
        removed_resource_names,
        nonce,
        control_plane: _,
        resource_errors,
    } = response;
    let content = read_content(
        type_url,
        resources,
        removed_resources,
        removed_resource_names,
        resource_errors,
    );
    Incoming {
        version: system_version_info,
        nonce,
        content,
    }
}

fn read_content(
    type_url: &TypeUrl,
    resources: Vec<discovery::Resource>,
    removed: Vec<String>,
    removed_names: Vec<discovery::ResourceName>,
    errors: Vec<discovery::ResourceError>,
) -> Result<Content, String> {
    let mut content = Content {
        removed,
        ..Content::default()
    };
    for (index, wrapper) in resources.into_iter().enumerate() {
        let path = format!("resources[{index}]");
        content
            .resources
            .push(unwrap_resource(&path, type_url, wrapper)?);
    }
    for (index, name) in removed_names.into_iter().enumerate() {
        let name = plain_name(Some(name))
            .map_err(|reason| format!("removed_resource_names[{index}].{reason}"))?;
        content.removed.push(name);
    }
    if let Some(index) = content.removed.iter().position(String::is_empty) {
        return Err(format!("removed_resources[{index}]: must not be empty"));
    }
    content.take_errors(errors)?;
    content.check_unique()?;
    Ok(content)
}

/// The next request of a subscription, if it has something to say.
pub(super) fn next_request(
    type_url: &TypeUrl,
    subscription: &mut Subscription,
    node: Option<&Node>,
) -> Option<discovery::DeltaDiscoveryRequest> {
    let answer = subscription.due()?;
    let first = subscription.sent.is_none();
    let sent = subscription.sent.take().unwrap_or_default();
    let wanted = &subscription.wanted;
    let mut subscribe: Vec<String> = wanted
        .iter()
        .filter(|name| !sent.contains(*name) || subscription.again.contains(*name))
        .cloned()
        .collect();
    let unsubscribe = sent.difference(wanted).cloned().collect();
    if first && type_url.is_sent_whole() && subscribe.len() == 1 && subscribe[0] == WILDCARD {
        // Old servers know only the empty first request as the way to ask for everything.
        subscribe.clear();
    }
    let initial_resource_versions = if first {
        subscription.initial_versions()
    } else {
        HashMap::new()
    };
    subscription.sent = Some(wanted.clone());
    subscription.again.clear();
    let error_detail = answer.as_ref().and_then(error_detail);
    Some(discovery::DeltaDiscoveryRequest {
        node: node.cloned(),
        type_url: type_url.as_str().to_owned(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        initial_resource_versions,
        response_nonce: answer.map(|answer| answer.nonce).unwrap_or_default(),
        error_detail,
        ..Default::default()
    })
}
