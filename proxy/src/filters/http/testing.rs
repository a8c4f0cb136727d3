//! What the tests of filters share: conversions as a user meets them.

use super::{Config, RouteConfig};
use crate::{
    bootstrap::{LoadError, Overrides, load},
    config::{http_connection_manager::HttpConnectionManager, per_filter::Setting},
};

/// A bootstrap with one filter and one per-route setting of it, each as YAML in flow form.
fn bootstrap(
    filter: Option<&str>,
    route: Option<&str>,
) -> Result<HttpConnectionManager, Vec<String>> {
    let filter = filter.map_or_else(String::new, |filter| {
        format!("{{name: f, typed_config: {filter}}},")
    });
    let route = route.map_or_else(String::new, |route| {
        format!("typed_per_filter_config: {{f: {route}}},")
    });
    let text = format!(
        r#"
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: t
          route_config: {{name: r, virtual_hosts: [{{name: v, domains: ["*"], routes: [
            {{match: {{prefix: /}}, {route} direct_response: {{status: 200}}}}]}}]}}
          http_filters: [{filter}
            {{name: r, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
"#
    );
    match load(&text, &Overrides::default()) {
        Ok(bootstrap) => {
            let hcm = bootstrap.listeners[0].filter_chains[0]
                .filter
                .http()
                .unwrap();
            Ok(HttpConnectionManager::clone(hcm))
        }
        Err(LoadError::Text(error)) => Err(vec![error.to_string()]),
        Err(LoadError::Content(errors)) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

/// The configuration of a filter.
pub(crate) fn config(filter: &str) -> Config {
    let hcm = bootstrap(Some(filter), None).unwrap_or_else(|errors| panic!("{errors:#?}"));
    hcm.filters[0].config.clone()
}

/// A per-route setting.
pub(crate) fn route_config(route: &str) -> RouteConfig {
    use crate::config::http_connection_manager::RouteSource;
    let hcm = bootstrap(None, Some(route)).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let RouteSource::Inline(routes) = &hcm.routes else {
        unreachable!("the bootstrap above is inline")
    };
    match &routes.virtual_hosts[0].routes[0].per_filter.0[0].1 {
        Setting::Config(config) => config.clone(),
        other => panic!("{other:?}"),
    }
}

/// How a filter's configuration is refused; paths begin below `typed_config`.
pub(crate) fn errors(filter: &str) -> Vec<String> {
    below(
        bootstrap(Some(filter), None),
        ".http_filters[0].typed_config",
    )
}

/// How a per-route setting is refused; paths begin below the filter's name.
pub(crate) fn route_errors(route: &str) -> Vec<String> {
    below(
        bootstrap(None, Some(route)),
        r#".typed_per_filter_config["f"]"#,
    )
}

fn below(result: Result<HttpConnectionManager, Vec<String>>, place: &str) -> Vec<String> {
    let errors = result.err().unwrap_or_default();
    errors
        .iter()
        .map(|error| match error.split_once(place) {
            Some((_, rest)) => rest.trim_start_matches(['.', ':', ' ']).to_owned(),
            None => error.clone(),
        })
        .collect()
}

/// Each text begins exactly one of the errors, and there are no others.
pub(crate) fn assert_says(found: &[String], expected: &[&str]) {
    for text in expected {
        let count = found.iter().filter(|error| error.starts_with(text)).count();
        assert_eq!(count, 1, "{text} once in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}
