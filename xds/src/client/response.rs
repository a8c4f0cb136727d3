//! Responses of both forms, checked and brought to one shape.

use std::collections::HashSet;

use super::{Resource, ResourceError};
use crate::{Any, NOT_FOUND, TypeUrl, discovery};

/// A response whose rules hold, or the reason why they do not.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) content: Result<Content, String>,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) resources: Vec<Resource>,
    pub(super) removed: Vec<String>,
    pub(super) errors: Vec<ResourceError>,
}

impl Content {
    /// Sorts the server's `resource_errors` into removals and true errors.
    pub(super) fn take_errors(
        &mut self,
        errors: Vec<discovery::ResourceError>,
    ) -> Result<(), String> {
        for (index, error) in errors.into_iter().enumerate() {
            let name = plain_name(error.resource_name)
                .map_err(|reason| format!("resource_errors[{index}].{reason}"))?;
            let status = error.error_detail.unwrap_or_default();
            if status.code == NOT_FOUND {
                self.removed.push(name);
            } else {
                self.errors.push(ResourceError {
                    name,
                    reason: status.message,
                });
            }
        }
        Ok(())
    }

    /// One response must not say two things about one name.
    pub(super) fn check_unique(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        let names = self.resources.iter().map(|resource| &resource.name);
        for name in names.chain(&self.removed) {
            if !seen.insert(name.as_str()) {
                return Err(format!(
                    "duplicate name {name} found among the resources added, updated and removed"
                ));
            }
        }
        Ok(())
    }
}

/// Takes a `Resource` wrapper apart. `path` is its place in the response.
pub(super) fn unwrap_resource(
    path: &str,
    type_url: &TypeUrl,
    wrapper: discovery::Resource,
) -> Result<Resource, String> {
    // Aliases and metadata have no effect on what a resource means; the rest must be understood.
    let discovery::Resource {
        name,
        resource_name,
        aliases: _,
        version,
        resource,
        ttl,
        cache_control: _,
        metadata: _,
    } = wrapper;
    if ttl.is_some() {
        return Err(format!("{path}.ttl: not supported"));
    }
    let Some(body) = resource else {
        return Err(format!(
            "{path}.resource: missing (heartbeats are not supported)"
        ));
    };
    let name = match (name.is_empty(), resource_name) {
        (_, None) => name,
        (true, Some(other)) => {
            plain_name(Some(other)).map_err(|reason| format!("{path}.{reason}"))?
        }
        (false, Some(_)) => {
            return Err(format!(
                "{path}: only one of name and resource_name may be set"
            ));
        }
    };
    check_type(&format!("{path}.resource"), type_url, &body)?;
    let name = if name.is_empty() {
        embedded_name(path, &body)?
    } else {
        name
    };
    if name.is_empty() {
        return Err(format!("{path}.name: must not be empty"));
    }
    Ok(Resource {
        name,
        version,
        body,
    })
}

/// Every resource of a response is of the response's type.
pub(super) fn check_type(path: &str, type_url: &TypeUrl, body: &Any) -> Result<(), String> {
    if body.type_url == type_url.as_str() {
        return Ok(());
    }
    Err(format!(
        "{path}: type URL {} does not match the response's {type_url}",
        body.type_url
    ))
}

pub(super) fn plain_name(name: Option<discovery::ResourceName>) -> Result<String, String> {
    match name {
        Some(discovery::ResourceName {
            name,
            dynamic_parameter_constraints: None,
        }) => Ok(name),
        Some(_) => Err("resource_name.dynamic_parameter_constraints: not supported".to_owned()),
        None => Err("resource_name: missing".to_owned()),
    }
}

/// The name inside a message. Every xDS resource type has it as its first field, a string.
pub(super) fn embedded_name(path: &str, body: &Any) -> Result<String, String> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    <Named as prost::Message>::decode(body.value.as_slice())
        .map(|named| named.name)
        .map_err(|error| format!("{path}: cannot be decoded as {}: {error}", body.type_url))
}
