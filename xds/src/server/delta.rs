//! The incremental form on the server's side: how a request is read, how a response is made.

use std::time::SystemTime;

use super::ledger::{Held, InFlight, Ledger, version_of};
use super::sotw::any;
use super::{ProtocolError, Resources};
use crate::{TypeUrl, WILDCARD, discovery};

pub(super) fn take(
    type_url: &TypeUrl,
    ledger: &mut Ledger,
    request: discovery::DeltaDiscoveryRequest,
    now: SystemTime,
) -> Result<(), ProtocolError> {
    let discovery::DeltaDiscoveryRequest {
        node: _,
        type_url: _,
        resource_names_subscribe,
        resource_names_unsubscribe,
        resource_locators_subscribe,
        resource_locators_unsubscribe,
        initial_resource_versions,
        response_nonce,
        error_detail,
    } = request;
    if !resource_locators_subscribe.is_empty() || !resource_locators_unsubscribe.is_empty() {
        return Err(ProtocolError(
            "resource_locators_subscribe: not supported".to_owned(),
        ));
    }
    for (field, names) in [
        ("resource_names_subscribe", &resource_names_subscribe),
        ("resource_names_unsubscribe", &resource_names_unsubscribe),
    ] {
        if let Some(index) = names.iter().position(String::is_empty) {
            return Err(ProtocolError(format!(
                "{field}[{index}]: must not be empty"
            )));
        }
    }
    // The answer counts before the names: a name subscribed again must not become held by an
    // answer to something sent before.
    if ledger
        .in_flight
        .as_ref()
        .is_some_and(|in_flight| in_flight.nonce == response_nonce)
    {
        ledger.answer(error_detail.map(|status| status.message), false, now);
    }
    let first = !ledger.requested;
    ledger.requested = true;
    if first && resource_names_subscribe.is_empty() && type_url.is_sent_whole() {
        ledger.wildcard = true;
    }
    for name in resource_names_subscribe {
        if name == WILDCARD {
            ledger.wildcard = true;
            ledger.must_answer = true;
        } else {
            ledger.forget(&name);
            ledger.names.insert(name.into());
        }
    }
    for name in resource_names_unsubscribe {
        if name == WILDCARD {
            ledger.wildcard = false;
        } else {
            ledger.names.remove(name.as_str());
            // With a wildcard it is still wanted, but the client may drop it now.
            ledger.forget(&name);
        }
    }
    ledger.trim();
    if first {
        ledger.must_answer = ledger.wildcard && initial_resource_versions.is_empty();
        for (name, version) in initial_resource_versions {
            if ledger.wants(&name) {
                let held = Held::Present {
                    version: version.into(),
                    body: None,
                };
                ledger.held.insert(name.into(), held);
            }
        }
    }
    ledger.dirty = true;
    Ok(())
}

pub(super) fn give(
    type_url: &TypeUrl,
    ledger: &mut Ledger,
    target: &Resources,
    may_remove: bool,
    nonce: String,
    now: SystemTime,
) -> Option<discovery::DeltaDiscoveryResponse> {
    let difference = ledger.partial_difference(target, may_remove);
    ledger.postponed = !difference.postponed.is_empty();
    let is_same = difference.changed.is_empty() && difference.removed.is_empty();
    if is_same && !ledger.must_answer {
        return None;
    }
    let wanted = ledger.wanted(target);
    let version = version_of(wanted.map(|(name, resource)| (name, &resource.version)));
    let resources = difference
        .changed
        .iter()
        .map(|(name, resource)| discovery::Resource {
            name: name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(type_url, resource)),
            ..Default::default()
        })
        .collect();
    let response = discovery::DeltaDiscoveryResponse {
        system_version_info: version.clone(),
        resources,
        type_url: type_url.as_str().to_owned(),
        removed_resources: difference.removed.iter().map(ToString::to_string).collect(),
        nonce: nonce.clone(),
        ..Default::default()
    };
    ledger.send(InFlight {
        nonce,
        version,
        size: difference.changed.len(),
        changed: difference.changed,
        removed: difference.removed,
        sent_at: now,
    });
    Some(response)
}
