//! `RouteAction.HashPolicy`, on routes and on clusters.

use std::sync::Arc;

use outrigger_proto::envoy::config::route::v3::route_action::{
    HashPolicy as Proto,
    hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    },
};

use super::matcher;
use crate::{
    config::hash_policy::{HashPolicy, HashSource},
    convert::Cx,
};

/// A list of policies; those that can never find anything are left out.
pub(super) fn policies(cx: &Cx<'_>, policies: Vec<Proto>) -> Vec<HashPolicy> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["filter_state"]);
    policies
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| policy(&cx.index(index), proto))
        .collect()
}

fn policy(cx: &Cx<'_>, policy: Proto) -> Option<HashPolicy> {
    let Proto {
        terminal,
        policy_specifier,
    } = policy;
    let source = match policy_specifier {
        Some(PolicySpecifier::Header(proto)) => header(&cx.field("header"), proto)?,
        Some(PolicySpecifier::Cookie(proto)) => cookie(&cx.field("cookie"), proto)?,
        Some(PolicySpecifier::ConnectionProperties(proto)) => {
            cx.converts::<ConnectionProperties>();
            let ConnectionProperties { source_ip } = proto;
            source_ip.then_some(HashSource::SourceIp)?
        }
        Some(PolicySpecifier::QueryParameter(proto)) => {
            cx.converts::<QueryParameter>();
            let QueryParameter { name } = proto;
            HashSource::QueryParameter(cx.field("query_parameter").non_empty("name", &name))
        }
        Some(PolicySpecifier::FilterState(_)) => {
            cx.field("filter_state").error("not supported");
            return None;
        }
        None => {
            cx.field("policy_specifier").error("value is required");
            return None;
        }
    };
    Some(HashPolicy { source, terminal })
}

fn header(cx: &Cx<'_>, header: Header) -> Option<HashSource> {
    cx.converts::<Header>();
    let Header {
        header_name,
        regex_rewrite,
    } = header;
    let name = matcher::header_key(&cx.field("header_name"), &header_name);
    let rewrite = match regex_rewrite {
        None => None,
        Some(proto) => Some(matcher::substitution(&cx.field("regex_rewrite"), proto)?),
    };
    Some(HashSource::Header {
        name: name?,
        rewrite,
    })
}

fn cookie(cx: &Cx<'_>, cookie: Cookie) -> Option<HashSource> {
    cx.converts::<Cookie>();
    let Cookie {
        name,
        ttl,
        path,
        attributes,
    } = cookie;
    let name = cx.non_empty("name", &name);
    let mut text = String::new();
    let is_made = ttl.is_some();
    if let Some(seconds) = cx
        .optional_duration("ttl", ttl)
        .map(|ttl| ttl.as_secs())
        .filter(|seconds| *seconds > 0)
    {
        text.push_str("; Max-Age=");
        text.push_str(&seconds.to_string());
    }
    if !path.is_empty() {
        text.push_str("; Path=");
        text.push_str(&path);
    }
    let list = cx.field("attributes");
    cx.converts::<CookieAttribute>();
    for (index, CookieAttribute { name, value }) in attributes.into_iter().enumerate() {
        text.push_str("; ");
        text.push_str(&list.index(index).non_empty("name", &name));
        if !value.is_empty() {
            text.push('=');
            text.push_str(&value);
        }
    }
    text.push_str("; HttpOnly");
    // What cannot stand in a header is told now, not when the first cookie is made.
    cx.header_value(&format!("{name}=\"\"{text}"))?;
    Some(HashSource::Cookie {
        name,
        attributes: is_made.then(|| Arc::from(text)),
    })
}
