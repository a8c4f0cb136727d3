//! `metadata` of objects, and the syntax of names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Checks;
use crate::model::NamespacedName;

/// Where an object without a namespace is, as for `kubectl apply`.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Checks name and namespace.
pub(super) fn read(metadata: &ObjectMeta, checks: &mut Checks) -> Option<NamespacedName> {
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    if !is_label(namespace) {
        checks.error(
            "metadata.namespace",
            format!("'{namespace}' is not a valid namespace name"),
        );
    }
    let Some(name) = metadata.name.as_deref() else {
        checks.error("metadata.name", "missing");
        return None;
    };
    if !is_subdomain(name) {
        checks.error(
            "metadata.name",
            format!("'{name}' is not valid: use lower case letters, digits, '-' and '.'"),
        );
        return None;
    }
    Some(NamespacedName::new(namespace, name))
}

/// RFC 1123 label: namespaces and services.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain: most objects, and host names.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}
