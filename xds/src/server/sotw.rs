//! The state-of-the-world form on the server's side: how a request is read, how a response is made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::ledger::{Held, InFlight, Ledger, version_of};
use super::{ProtocolError, Resource, Resources};
use crate::{Any, TypeUrl, WILDCARD, discovery};

pub(super) fn take(
    type_url: &TypeUrl,
    ledger: &mut Ledger,
    request: discovery::DiscoveryRequest,
    now: SystemTime,
) -> Result<(), ProtocolError> {
    let discovery::DiscoveryRequest {
        version_info,
        node: _,
        resource_names,
        resource_locators,
        type_url: _,
        response_nonce,
        error_detail,
    } = request;
    if !resource_locators.is_empty() {
        return Err(ProtocolError("resource_locators: not supported".to_owned()));
    }
    if let Some(index) = resource_names.iter().position(String::is_empty) {
        return Err(ProtocolError(format!(
            "resource_names[{index}]: must not be empty"
        )));
    }
    // A request that does not answer the last response was overtaken by it: the client will repeat
    // its names in the answer. Before any response a nonce is one of an earlier stream.
    if ledger
        .last_nonce
        .as_ref()
        .is_some_and(|nonce| *nonce != response_nonce)
    {
        return Ok(());
    }
    if !ledger.requested {
        ledger.requested = true;
        ledger.must_answer = type_url.is_sent_whole();
        ledger.resume = Some(version_info).filter(|version| !version.is_empty());
    }
    subscribe(type_url, ledger, resource_names);
    let error = error_detail.map(|status| status.message);
    if ledger
        .in_flight
        .as_ref()
        .is_some_and(|in_flight| in_flight.nonce == response_nonce)
    {
        ledger.answer(error, type_url.is_sent_whole(), now);
    }
    ledger.dirty = true;
    Ok(())
}

fn subscribe(type_url: &TypeUrl, ledger: &mut Ledger, names: Vec<String>) {
    let is_legacy = names.is_empty() && !ledger.named && type_url.is_sent_whole();
    ledger.named |= !names.is_empty();
    ledger.wildcard = is_legacy || names.iter().any(|name| name == WILDCARD);
    ledger.names = names
        .into_iter()
        .filter(|name| name != WILDCARD)
        .map(Arc::from)
        .collect::<BTreeSet<_>>();
    ledger.trim();
}

pub(super) fn give(
    type_url: &TypeUrl,
    ledger: &mut Ledger,
    target: &Resources,
    may_remove: bool,
    nonce: String,
    now: SystemTime,
) -> Option<discovery::DiscoveryResponse> {
    if let Some(version) = ledger.resume.take() {
        resume(ledger, target, version, now);
    }
    let (changed, removed, version) = if type_url.is_sent_whole() {
        let difference = ledger.difference(target, may_remove);
        ledger.postponed = !difference.postponed.is_empty();
        let is_same = difference.changed.is_empty() && difference.removed.is_empty();
        if is_same && !ledger.must_answer {
            return None;
        }
        let mut all: Vec<(Arc<str>, Resource)> = ledger
            .wanted(target)
            .map(|(name, resource)| (Arc::clone(name), resource.clone()))
            .collect();
        // What is removed later must be listed until then.
        for name in &difference.postponed {
            if let Some(Held::Present {
                version,
                body: Some(body),
            }) = ledger.held.get(name)
            {
                let resource = Resource {
                    version: Arc::clone(version),
                    body: Arc::clone(body),
                };
                all.push((Arc::clone(name), resource));
            }
        }
        let version = version_of(all.iter().map(|(name, one)| (name, &one.version)));
        (all, difference.removed, version)
    } else {
        // No response can remove resources of these types.
        ledger.prune(target);
        let difference = ledger.partial_difference(target, may_remove);
        if difference.changed.is_empty() {
            return None;
        }
        let version = partial_version(ledger, target, &difference.changed);
        (difference.changed, Vec::new(), version)
    };
    let resources = changed
        .iter()
        .map(|(_, resource)| any(type_url, resource))
        .collect();
    let response = discovery::DiscoveryResponse {
        version_info: version.clone(),
        resources,
        type_url: type_url.as_str().to_owned(),
        nonce: nonce.clone(),
        ..Default::default()
    };
    let size = changed.len();
    ledger.send(InFlight {
        nonce,
        version,
        changed,
        removed,
        size,
        sent_at: now,
    });
    Some(response)
}

/// The version of what the client will hold with this response, which lists only what changed.
fn partial_version(
    ledger: &Ledger,
    target: &Resources,
    changed: &[(Arc<str>, Resource)],
) -> String {
    let changed_names: BTreeSet<&str> = changed.iter().map(|(name, _)| &**name).collect();
    let kept = ledger
        .wanted(target)
        .filter_map(|(name, _)| match ledger.held.get(name) {
            Some(Held::Present { version, .. }) if !changed_names.contains(&**name) => {
                Some((name, version))
            }
            _ => None,
        });
    version_of(
        kept.chain(
            changed
                .iter()
                .map(|(name, resource)| (name, &resource.version)),
        ),
    )
}

/// A client that reconnects says which version it holds: if that is the one it would be sent,
/// it holds everything.
fn resume(ledger: &mut Ledger, target: &Resources, version: String, now: SystemTime) {
    let wanted = ledger
        .wanted(target)
        .map(|(name, resource)| (name, &resource.version));
    if version_of(wanted) != version {
        return;
    }
    let mut held: Vec<(Arc<str>, Held)> = ledger
        .wanted(target)
        .map(|(name, resource)| (Arc::clone(name), Held::of(resource)))
        .collect();
    let missing = ledger
        .names
        .iter()
        .filter(|name| target.get(name).is_none());
    held.extend(missing.map(|name| (Arc::clone(name), Held::Absent)));
    ledger.held.extend(held);
    ledger.resumed(version, now);
}

pub(super) fn any(type_url: &TypeUrl, resource: &Resource) -> Any {
    Any {
        type_url: type_url.as_str().to_owned(),
        value: resource.body.to_vec(),
    }
}
