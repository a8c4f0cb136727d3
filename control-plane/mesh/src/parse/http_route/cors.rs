//! `CORS`.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;

use super::{Checks, is_token};
use crate::{model::Cors, parse::metadata::is_subdomain};

/// What the API sets without `maxAge`.
const MAX_AGE: u32 = 5;

pub(super) fn read(cors: api::HttpRouteRulesFiltersCors, path: &str, checks: &mut Checks) -> Cors {
    let api::HttpRouteRulesFiltersCors {
        allow_credentials,
        allow_headers,
        allow_methods,
        allow_origins,
        expose_headers,
        max_age,
    } = cors;
    let allow_credentials = allow_credentials.unwrap_or(false);
    let mut tokens = |list: Option<Vec<String>>, field: &str| -> Vec<Arc<str>> {
        let list = list.unwrap_or_default();
        for (index, token) in list.iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            if token == "*" && allow_credentials {
                let message = "* with allowCredentials is not implemented: list what is allowed";
                checks.unsupported(path, message);
            } else if !is_token(token) {
                checks.error(path, format!("'{token}' is not valid"));
            }
        }
        list.into_iter().map(Arc::from).collect()
    };
    let allow_methods = tokens(allow_methods, "allowMethods");
    let allow_headers = tokens(allow_headers, "allowHeaders");
    let expose_headers = tokens(expose_headers, "exposeHeaders");
    let allow_origins = allow_origins.unwrap_or_default();
    for (index, origin) in allow_origins.iter().enumerate() {
        if !is_origin(origin) {
            checks.error(
                format!("{path}.allowOrigins[{index}]"),
                format!("'{origin}' is neither * nor an origin such as https://example.com"),
            );
        }
    }
    let max_age = match max_age.map(u32::try_from) {
        None => MAX_AGE,
        Some(Ok(seconds)) if seconds > 0 => seconds,
        Some(_) => {
            checks.error(format!("{path}.maxAge"), "must be at least 1");
            MAX_AGE
        }
    };
    Cors {
        allow_origins: allow_origins.into_iter().map(Arc::from).collect(),
        allow_methods,
        allow_headers,
        expose_headers,
        allow_credentials,
        max_age,
    }
}

/// `*`, or scheme and host with `*` in front of it or instead of it, and maybe a port.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    matches!(scheme, "http" | "https")
        && (host == "*" || is_subdomain(&host.to_ascii_lowercase()))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}
