//! The state-of-the-world form on the client's side: how a request is made, how a response is read.

use std::collections::BTreeSet;

use super::response::{Content, Incoming, check_type, embedded_name, unwrap_resource};
use super::subscription::{Answer, Subscription};
use crate::{Any, INVALID_ARGUMENT, Node, RpcStatus, TypeUrl, WILDCARD, discovery};

const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

pub(super) fn read(type_url: &TypeUrl, response: discovery::DiscoveryResponse) -> Incoming {
    // `canary` is a flag for Envoy's command line that nothing implements; `control_plane` informs.
    let discovery::DiscoveryResponse {
        version_info,
        resources,
        canary: _,
        type_url: _,
        nonce,
        control_plane: _,
        resource_errors,
    } = response;
    let content = read_content(type_url, &version_info, resources, resource_errors);
    Incoming {
        version: version_info,
        nonce,
        content,
    }
}

fn read_content(
    type_url: &TypeUrl,
    version: &str,
    resources: Vec<Any>,
    errors: Vec<discovery::ResourceError>,
) -> Result<Content, String> {
    let mut content = Content::default();
    for (index, body) in resources.into_iter().enumerate() {
        let path = format!("resources[{index}]");
        let mut resource = if body.type_url == WRAPPER {
            let wrapper = prost::Message::decode(body.value.as_slice())
                .map_err(|error| format!("{path}: cannot be decoded as {WRAPPER}: {error}"))?;
            unwrap_resource(&path, type_url, wrapper)?
        } else {
            check_type(&path, type_url, &body)?;
            let name = embedded_name(&path, &body)?;
            super::Resource {
                name,
                version: String::new(),
                body,
            }
        };
        if resource.name.is_empty() {
            return Err(format!("{path}: the resource's name must not be empty"));
        }
        version.clone_into(&mut resource.version);
        content.resources.push(resource);
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
) -> Option<discovery::DiscoveryRequest> {
    let answer = subscription.due()?;
    let version_info = subscription.version_to_send();
    let names = names_to_send(type_url, subscription);
    let error_detail = answer.as_ref().and_then(error_detail);
    if let Some(answer) = answer {
        subscription.last_nonce = answer.nonce;
    }
    Some(discovery::DiscoveryRequest {
        version_info,
        node: node.cloned(),
        resource_names: names,
        type_url: type_url.as_str().to_owned(),
        response_nonce: subscription.last_nonce.clone(),
        error_detail,
        ..Default::default()
    })
}

pub(super) fn error_detail(answer: &Answer) -> Option<RpcStatus> {
    let message = answer.error.clone()?;
    Some(RpcStatus {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    })
}

fn names_to_send(type_url: &TypeUrl, subscription: &mut Subscription) -> Vec<String> {
    let mut wanted = subscription.wanted.clone();
    if subscription.sent.is_some() && !subscription.again.is_empty() {
        // Names that were dropped and wanted again: the server must see them go, or it would
        // believe that the client still holds them.
        wanted.retain(|name| !subscription.again.contains(name));
        subscription.again.clear();
    }
    let sent = subscription.sent.clone().unwrap_or_default();
    let is_legacy = |names: &BTreeSet<String>| names.len() == 1 && names.contains(WILDCARD);
    let list = if is_legacy(&wanted) && !subscription.named_on_stream && type_url.is_sent_whole() {
        Vec::new()
    } else if wanted.is_empty() && is_legacy(&sent) && !subscription.named_on_stream {
        // An empty list would still mean everything; only one after a list with names means nothing.
        // The next request, now different from what was sent, is the empty one.
        subscription.named_on_stream = true;
        return vec![WILDCARD.to_owned()];
    } else {
        wanted.iter().cloned().collect()
    };
    subscription.named_on_stream |= !list.is_empty();
    subscription.sent = Some(wanted);
    list
}
