//! `filters` of rules and of backends.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;

use super::{Checks, cors, is_token, mirror, read_port};
use crate::model::{Filters, HeaderChanges, NamespacedName, PathChange, Redirect, Rewrite};
use crate::parse::metadata::is_subdomain;

/// The API generates the same header modifier as four unrelated types.
macro_rules! header_changes {
    ($modifier:expr, $path:expr, $checks:expr) => {{
        let modifier = $modifier;
        HeaderChanges {
            set: modifier
                .set
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(index, header)| {
                    let path = format!("{}.set[{index}]", $path);
                    read_header(header.name, header.value, &path, $checks)
                })
                .collect(),
            add: modifier
                .add
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(index, header)| {
                    let path = format!("{}.add[{index}]", $path);
                    read_header(header.name, header.value, &path, $checks)
                })
                .collect(),
            remove: modifier
                .remove
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(index, name)| {
                    read_name(name, format!("{}.remove[{index}]", $path), $checks)
                })
                .collect(),
        }
    }};
}

/// The API generates the same filter as two unrelated types: the name of its type, and of each field whether
/// it is set.
macro_rules! union_of {
    ($filter:expr, $Type:ident) => {{
        let filter = &$filter;
        let name = match filter.r#type {
            $Type::RequestHeaderModifier => "RequestHeaderModifier",
            $Type::ResponseHeaderModifier => "ResponseHeaderModifier",
            $Type::RequestMirror => "RequestMirror",
            $Type::RequestRedirect => "RequestRedirect",
            $Type::UrlRewrite => "URLRewrite",
            $Type::ExtensionRef => "ExtensionRef",
            $Type::Cors => "CORS",
            $Type::ExternalAuth => "ExternalAuth",
        };
        let set = [
            ("CORS", "cors", filter.cors.is_some()),
            (
                "ExtensionRef",
                "extensionRef",
                filter.extension_ref.is_some(),
            ),
            (
                "ExternalAuth",
                "externalAuth",
                filter.external_auth.is_some(),
            ),
            (
                "RequestHeaderModifier",
                "requestHeaderModifier",
                filter.request_header_modifier.is_some(),
            ),
            (
                "RequestMirror",
                "requestMirror",
                filter.request_mirror.is_some(),
            ),
            (
                "RequestRedirect",
                "requestRedirect",
                filter.request_redirect.is_some(),
            ),
            (
                "ResponseHeaderModifier",
                "responseHeaderModifier",
                filter.response_header_modifier.is_some(),
            ),
            ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        ];
        (name, set)
    }};
}

/// Reads `spec.rules[i].filters`.
pub(super) fn read_rule(
    filters: Vec<api::HttpRouteRulesFilters>,
    route: &NamespacedName,
    rule: &str,
    checks: &mut Checks,
) -> Filters {
    use api::HttpRouteRulesFiltersType as Type;
    let mut read = Filters::default();
    let mut seen = Vec::new();
    for (index, filter) in filters.into_iter().enumerate() {
        let path = format!("{rule}.filters[{index}]");
        let (name, set) = union_of!(filter, Type);
        let api::HttpRouteRulesFilters {
            cors,
            extension_ref: _,
            external_auth: _,
            request_header_modifier,
            request_mirror,
            request_redirect,
            response_header_modifier,
            r#type,
            url_rewrite,
        } = filter;
        check_union(name, &set, &path, checks);
        let repeatable = matches!(r#type, Type::ExtensionRef | Type::RequestMirror);
        if seen.contains(&name) && !repeatable {
            checks.error(
                path.clone(),
                format!("{name} can be used only once in a rule"),
            );
        }
        seen.push(name);
        match r#type {
            Type::RequestHeaderModifier => {
                if let Some(modifier) = request_header_modifier {
                    let path = format!("{path}.requestHeaderModifier");
                    read.request_headers = header_changes!(modifier, path, checks);
                    check_host(&read.request_headers, &path, checks);
                }
            }
            Type::ResponseHeaderModifier => {
                if let Some(modifier) = response_header_modifier {
                    let path = format!("{path}.responseHeaderModifier");
                    read.response_headers = header_changes!(modifier, path, checks);
                    check_removal(&read.response_headers, &path, checks);
                }
            }
            Type::RequestRedirect => {
                read.redirect = request_redirect
                    .map(|r| read_redirect(r, &format!("{path}.requestRedirect"), checks));
            }
            Type::UrlRewrite => {
                read.rewrite =
                    url_rewrite.map(|r| read_rewrite(r, &format!("{path}.urlRewrite"), checks));
            }
            Type::RequestMirror => {
                let path = format!("{path}.requestMirror");
                read.mirrors
                    .extend(request_mirror.map(|m| mirror::read(m, index, route, &path, checks)));
            }
            Type::Cors => {
                read.cors = cors.map(|cors| cors::read(cors, &format!("{path}.cors"), checks));
            }
            Type::ExtensionRef | Type::ExternalAuth => {
                checks.unsupported(format!("{path}.type"), format!("{name} is not implemented"));
            }
        }
    }
    read
}

/// Reads `spec.rules[i].backendRefs[j].filters`: request and response header changes.
pub(super) fn read_backend(
    filters: Vec<api::HttpRouteRulesBackendRefsFilters>,
    backend: &str,
    checks: &mut Checks,
) -> (HeaderChanges, HeaderChanges) {
    use api::HttpRouteRulesBackendRefsFiltersType as Type;
    let mut request = None;
    let mut response = None;
    for (index, filter) in filters.into_iter().enumerate() {
        let path = format!("{backend}.filters[{index}]");
        let (name, set) = union_of!(filter, Type);
        check_union(name, &set, &path, checks);
        let once = format!("{name} can be used only once");
        match filter.r#type {
            Type::RequestHeaderModifier => {
                if let Some(modifier) = filter.request_header_modifier {
                    let at = format!("{path}.requestHeaderModifier");
                    let changes = header_changes!(modifier, at, checks);
                    check_host(&changes, &at, checks);
                    if request.replace(changes).is_some() {
                        checks.error(path, once);
                    }
                }
            }
            Type::ResponseHeaderModifier => {
                if let Some(modifier) = filter.response_header_modifier {
                    let at = format!("{path}.responseHeaderModifier");
                    let changes = header_changes!(modifier, at, checks);
                    check_removal(&changes, &at, checks);
                    if response.replace(changes).is_some() {
                        checks.error(path, once);
                    }
                }
            }
            _ => {
                let message = format!("{name} is not implemented for single backends");
                checks.unsupported(format!("{path}.type"), message);
            }
        }
    }
    (request.unwrap_or_default(), response.unwrap_or_default())
}

/// The field that `type` names must be set, and no other.
fn check_union(name: &str, set: &[(&str, &str, bool)], path: &str, checks: &mut Checks) {
    for (of, field, is_set) in set {
        if *of == name && !is_set {
            checks.error(
                format!("{path}.{field}"),
                format!("missing for type {name}"),
            );
        } else if *of != name && *is_set {
            checks.error(
                format!("{path}.{field}"),
                format!("does not belong to type {name}"),
            );
        }
    }
}

fn read_header(
    name: String,
    value: String,
    path: &str,
    checks: &mut Checks,
) -> Option<(Arc<str>, Arc<str>)> {
    if value.len() > 4096 || value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
        let message = "not a valid header value: control characters, or over 4096 bytes";
        checks.error(format!("{path}.value"), message);
    }
    let name = read_name(name, format!("{path}.name"), checks)?;
    Some((name, value.into()))
}

fn read_name(name: String, path: String, checks: &mut Checks) -> Option<Arc<str>> {
    if !is_token(&name) {
        checks.error(path, format!("'{name}' is not a valid header name"));
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}

/// The host is no ordinary header for a proxy: it decides the route.
fn check_host(changes: &HeaderChanges, path: &str, checks: &mut Checks) {
    let set = changes.set.iter().map(|(name, _)| name);
    let added = changes.add.iter().map(|(name, _)| name);
    if set
        .chain(added)
        .chain(&changes.remove)
        .any(|name| **name == *"host")
    {
        checks.unsupported(
            path,
            "Host cannot be changed as a header: use URLRewrite's hostname",
        );
    }
}

/// A proxy does not take it for a header of responses either.
fn check_removal(changes: &HeaderChanges, path: &str, checks: &mut Checks) {
    if changes.remove.iter().any(|name| **name == *"host") {
        checks.unsupported(path, "Host cannot be removed");
    }
}

fn read_redirect(
    redirect: api::HttpRouteRulesFiltersRequestRedirect,
    path: &str,
    checks: &mut Checks,
) -> Redirect {
    use api::{
        HttpRouteRulesFiltersRequestRedirectPathType as PathType,
        HttpRouteRulesFiltersRequestRedirectScheme as Scheme,
    };
    let api::HttpRouteRulesFiltersRequestRedirect {
        hostname,
        path: to_path,
        port,
        scheme,
        status_code,
    } = redirect;
    let status = status_code.unwrap_or(302);
    let status = match u16::try_from(status) {
        Ok(status @ (301 | 302 | 303 | 307 | 308)) => status,
        _ => {
            let message = format!("{status} is not one of 301, 302, 303, 307, 308");
            checks.error(format!("{path}.statusCode"), message);
            302
        }
    };
    let to_path = to_path.and_then(|change| {
        let is_full = matches!(change.r#type, PathType::ReplaceFullPath);
        let at = format!("{path}.path");
        read_path_change(
            is_full,
            change.replace_full_path,
            change.replace_prefix_match,
            &at,
            checks,
        )
    });
    Redirect {
        scheme: scheme.map(|scheme| match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }),
        hostname: read_hostname(hostname, path, checks),
        path: to_path,
        port: read_port(port, path, checks),
        status,
    }
}

fn read_rewrite(
    rewrite: api::HttpRouteRulesFiltersUrlRewrite,
    path: &str,
    checks: &mut Checks,
) -> Rewrite {
    use api::HttpRouteRulesFiltersUrlRewritePathType as PathType;
    let api::HttpRouteRulesFiltersUrlRewrite {
        hostname,
        path: to_path,
    } = rewrite;
    let to_path = to_path.and_then(|change| {
        let is_full = matches!(change.r#type, PathType::ReplaceFullPath);
        let at = format!("{path}.path");
        read_path_change(
            is_full,
            change.replace_full_path,
            change.replace_prefix_match,
            &at,
            checks,
        )
    });
    Rewrite {
        hostname: read_hostname(hostname, path, checks),
        path: to_path,
    }
}

fn read_path_change(
    is_full: bool,
    full: Option<String>,
    prefix: Option<String>,
    path: &str,
    checks: &mut Checks,
) -> Option<PathChange> {
    let (field, other, value, unwanted) = if is_full {
        ("replaceFullPath", "replacePrefixMatch", full, prefix)
    } else {
        ("replacePrefixMatch", "replaceFullPath", prefix, full)
    };
    if unwanted.is_some() {
        checks.error(
            format!("{path}.{other}"),
            format!("does not belong to the type of {field}"),
        );
    }
    let Some(value) = value else {
        checks.error(format!("{path}.{field}"), "missing for its type");
        return None;
    };
    let at = format!("{path}.{field}");
    if value.len() > 1024 {
        checks.error(at, "longer than 1024 characters");
        return None;
    }
    if !value.is_empty() && !value.starts_with('/') {
        checks.error(at, format!("'{value}' must start with '/'"));
        return None;
    }
    if value
        .bytes()
        .any(|byte| byte <= b' ' || byte == 0x7f || byte == b'?' || byte == b'#')
    {
        checks.error(at, format!("'{value}' has characters that no path has"));
        return None;
    }
    Some(if is_full {
        PathChange::Full(value.into())
    } else {
        PathChange::Prefix(value.into())
    })
}

fn read_hostname(hostname: Option<String>, path: &str, checks: &mut Checks) -> Option<Arc<str>> {
    let hostname = hostname?;
    if !is_subdomain(&hostname) {
        let message = format!("'{hostname}' is not a host name");
        checks.error(format!("{path}.hostname"), message);
    }
    Some(hostname.into())
}
