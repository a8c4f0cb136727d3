//! The compiled route table finds what a plain walk over the configuration finds.

#![no_main]

use std::sync::Arc;

use http::{Request, uri::Scheme};
use libfuzzer_sys::fuzz_target;
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_proxy::{
    config::{
        from_proto,
        route::{PathMatch, RouteConfiguration as Config, VirtualHost},
    },
    convert::Sink,
    router::Table,
};

/// Short texts make domains and paths that meet.
fn word(bytes: &[u8], alphabet: &[u8]) -> String {
    bytes
        .iter()
        .take(6)
        .map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()]))
        .collect()
}

fn config(seeds: &[Vec<Vec<u8>>]) -> Option<Config> {
    let mut text = String::from("{virtual_hosts: [");
    for (index, seed) in seeds.iter().take(6).enumerate() {
        let domain = word(seed.first()?, b"ab.*");
        let mut routes = String::new();
        for path in seed.iter().skip(1).take(8) {
            let kind = match path.first()? % 2 {
                0 => "path",
                _ => "prefix",
            };
            let path = word(&path[1..], b"/ab");
            routes.push_str(&format!(
                "{{match: {{{kind}: '/{path}'}}, direct_response: {{status: 200}}}},"
            ));
        }
        text.push_str(&format!(
            "{{name: v{index}, domains: ['{domain}'], routes: [{routes}]}},"
        ));
    }
    text.push_str("]}");
    let value = outrigger_proto::parse_yaml(&text).ok()?;
    let proto = outrigger_proto::message_from_value::<RouteConfiguration>(value).ok()?;
    let sink = Sink::new();
    let config = from_proto::route_configuration(&sink.root(""), proto, false);
    sink.finish(config).ok()
}

/// Exact, then the longest suffix, then the longest prefix, then `*`.
fn host<'a>(config: &'a Config, name: &str) -> Option<&'a VirtualHost> {
    let mut best: Option<((u8, usize), &VirtualHost)> = None;
    for host in &config.virtual_hosts {
        for domain in &host.domains {
            let rank = if &**domain == "*" {
                (1, 0)
            } else if let Some(suffix) = domain.strip_prefix('*') {
                if !name.ends_with(suffix) || name.len() <= suffix.len() {
                    continue;
                }
                (3, suffix.len())
            } else if let Some(prefix) = domain.strip_suffix('*') {
                if !name.starts_with(prefix) || name.len() <= prefix.len() {
                    continue;
                }
                (2, prefix.len())
            } else if &**domain == name {
                (4, 0)
            } else {
                continue;
            };
            if best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, host));
            }
        }
    }
    best.map(|(_, host)| host)
}

fuzz_target!(|input: (Vec<Vec<Vec<u8>>>, Vec<u8>, Vec<u8>)| {
    let (seeds, name, path) = input;
    let Some(config) = config(&seeds).map(Arc::new) else {
        return;
    };
    let Ok(table) = Table::compile(Arc::clone(&config)).map(Arc::new) else {
        return;
    };
    let name = word(&name, b"ab.");
    let path = format!("/{}", word(&path, b"/ab"));
    let Ok(request) = Request::builder()
        .uri(path.as_str())
        .header("host", &name)
        .body(())
    else {
        return;
    };
    let (parts, ()) = request.into_parts();
    let found = table.find(&parts, &Scheme::HTTP, false);
    let expected = host(&config, &name).and_then(|host| {
        host.routes.iter().find(|route| match &route.matches.path {
            PathMatch::Exact { value, .. } => **value == *path,
            PathMatch::Prefix { value, .. } => path.starts_with(&**value),
            _ => false,
        })
    });
    match (found, expected) {
        (None, None) => {}
        (Some(found), Some(expected)) => assert!(Arc::ptr_eq(&found.route, expected)),
        (found, expected) => panic!(
            "{name} {path}: found {}, expected {}",
            found.is_some(),
            expected.is_some()
        ),
    }
});
