//! Redirects, and new hosts and paths.

use outrigger_proto::envoy::{config::route::v3 as api, r#type::matcher::v3 as matcher};

use super::matcher::regex;
use crate::model::{PathChange, PathMatch, Redirect, Rewrite};

/// The host of a rewrite.
pub(super) fn host(rewrite: Option<&Rewrite>) -> Option<api::route_action::HostRewriteSpecifier> {
    let hostname = rewrite?.hostname.as_ref()?;
    Some(api::route_action::HostRewriteSpecifier::HostRewriteLiteral(
        hostname.to_string(),
    ))
}

/// A redirect without its path. `parent_port` is the port that the request came to.
pub(super) fn redirect(redirect: &Redirect, parent_port: u16) -> api::RedirectAction {
    use api::redirect_action::{RedirectResponseCode as Code, SchemeRewriteSpecifier};
    let Redirect {
        scheme,
        hostname,
        path: _,
        port,
        status,
    } = redirect;
    let code = match status {
        301 => Code::MovedPermanently,
        303 => Code::SeeOther,
        307 => Code::TemporaryRedirect,
        308 => Code::PermanentRedirect,
        _ => Code::Found,
    };
    let port = match (port, scheme, hostname) {
        (Some(port), _, _) => Some(*port),
        // The scheme's own port. A new host has none to begin with; the request's may have.
        (None, Some(_), Some(_)) => None,
        (None, Some("https"), None) => (parent_port != 80).then_some(443),
        (None, Some(_), None) => (parent_port != 80).then_some(80),
        // The same port at another host; 80 goes without saying.
        (None, None, Some(_)) => (parent_port != 80).then_some(parent_port),
        (None, None, None) => None,
    };
    api::RedirectAction {
        host_redirect: hostname
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        port_redirect: port.unwrap_or_default().into(),
        response_code: code.into(),
        scheme_rewrite_specifier: scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        ..Default::default()
    }
}

/// The new path of a redirect.
pub(super) fn redirect_path(
    action: &mut api::RedirectAction,
    change: &PathChange,
    matched: &PathMatch,
) {
    use api::redirect_action::PathRewriteSpecifier as Path;
    action.path_rewrite_specifier = match change {
        PathChange::Full(path) => Some(Path::PathRedirect(or_root(path))),
        PathChange::Prefix(to) => match replace_prefix(matched, to) {
            Replace::Nothing => None,
            Replace::Prefix(prefix) => Some(Path::PrefixRewrite(prefix)),
            Replace::Regex(rewrite) => Some(Path::RegexRewrite(rewrite)),
        },
    };
}

/// The new path of a rewrite.
pub(super) fn rewrite_path(
    action: &mut api::RouteAction,
    change: &PathChange,
    matched: &PathMatch,
) {
    match change {
        PathChange::Full(path) => {
            action.regex_rewrite = Some(substitute("^/.*$".to_owned(), &or_root(path)));
        }
        PathChange::Prefix(to) => match replace_prefix(matched, to) {
            Replace::Nothing => {}
            Replace::Prefix(prefix) => action.prefix_rewrite = prefix,
            Replace::Regex(rewrite) => action.regex_rewrite = Some(rewrite),
        },
    }
}

enum Replace {
    Nothing,
    Prefix(String),
    Regex(matcher::RegexMatchAndSubstitute),
}

/// The API replaces whole path elements, a proxy characters: at the root they differ.
fn replace_prefix(matched: &PathMatch, to: &str) -> Replace {
    // Only prefixes get here: the API's rules are checked when the route is read.
    let PathMatch::Prefix(from) = matched else {
        return Replace::Nothing;
    };
    let to = to.trim_end_matches('/');
    match (from.is_empty(), to.is_empty()) {
        (true, true) => Replace::Nothing,
        // `/cart` → `/shop/cart`.
        (true, false) => Replace::Prefix(format!("{to}/")),
        (false, false) => Replace::Prefix(to.to_owned()),
        // `/shop/cart` → `/cart`, and `/shop` → `/`.
        (false, true) => Replace::Regex(substitute(format!("^{}/?", ::regex::escape(from)), "/")),
    }
}

fn substitute(pattern: String, to: &str) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute {
        pattern: Some(regex(&pattern)),
        // A backslash would refer to a group.
        substitution: to.replace('\\', "\\\\"),
    }
}

fn or_root(path: &str) -> String {
    if path.is_empty() {
        "/".to_owned()
    } else {
        path.to_owned()
    }
}
