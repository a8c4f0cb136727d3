//! Conversions as a user meets them: text in, meaning or paths out.

use crate::bootstrap::{LoadError, Overrides, load};

fn errors(text: &str) -> Vec<String> {
    match load(text, &Overrides::default()) {
        Ok(_) => panic!("accepted"),
        Err(LoadError::Text(error)) => vec![error.to_string()],
        Err(LoadError::Content(errors)) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn empty_bootstrap_is_valid() {
    let bootstrap = load("{}", &Overrides::default()).unwrap();
    assert!(bootstrap.listeners.is_empty());
}

#[test]
fn unsupported_fields_are_named_all_at_once() {
    let found = errors(
        "static_resources:\n  clusters:\n  - name: a\n    upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}}\n    lb_policy: MAGLEV\noverload_manager: {refresh_interval: 1s}\n",
    );
    for expected in [
        "overload_manager: not supported",
        "static_resources.clusters[0].upstream_bind_config: not supported",
        "static_resources.clusters[0].lb_policy: MAGLEV is not supported",
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(expected)),
            "{expected} not in {found:#?}"
        );
    }
}

#[test]
fn support_table_knows_supported_and_refused_fields() {
    use crate::convert::Status;
    let table = super::support_table();
    let cluster = &table.messages()["envoy.config.cluster.v3.Cluster"];
    assert_eq!(cluster["upstream_bind_config"], Status::Rejected);
    assert!(!cluster.contains_key("connect_timeout"));
}
