//! `gateway.networking.k8s.io ReferenceGrant`.

use std::sync::Arc;

use gateway_api::referencegrants::ReferenceGrantSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_norway::Value;

use super::{Checks, metadata, value};
use crate::model::ReferenceGrant;

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: ObjectMeta,
    spec: ReferenceGrantSpec,
}

/// Reads a ReferenceGrant. Grants that are not about HTTPRoutes and Services are valid and concern
/// others.
pub(super) fn read(value: Value, checks: &mut Checks) -> Option<ReferenceGrant> {
    let manifest: Manifest = value::typed(value, checks)?;
    let id = metadata::read(&manifest.metadata, checks)?;
    let mut from = Vec::new();
    for (index, source) in manifest.spec.from.into_iter().enumerate() {
        let path = format!("spec.from[{index}]");
        if !metadata::is_label(&source.namespace) {
            let message = format!("'{}' is not a valid namespace name", source.namespace);
            checks.error(format!("{path}.namespace"), message);
        }
        if source.group == "gateway.networking.k8s.io" && source.kind == "HTTPRoute" {
            from.push(Arc::from(source.namespace));
        } else {
            checks.warn(
                path,
                format!("{} is not a kind that refers to others here", source.kind),
            );
        }
    }
    let mut to = Vec::new();
    for (index, target) in manifest.spec.to.into_iter().enumerate() {
        if target.group.is_empty() && target.kind == "Service" {
            to.push(target.name.map(Arc::from));
        } else {
            let message = format!("{} is not a kind that routes refer to here", target.kind);
            checks.warn(format!("spec.to[{index}]"), message);
        }
    }
    Some(ReferenceGrant { id, from, to })
}
