//! Conversion, and changes on messages.

use crate::filters::http::testing;

const FILTER: &str =
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute";

#[test]
fn what_is_not_supported_is_refused_by_path() {
    let found = testing::errors(&format!(
        r#"{{"@type": {FILTER}, mutations: {{
            request_mutations: [{{remove: ":path"}}, {{append: {{header: {{key: host, value: x}}}}}}],
            query_parameter_mutations: [{{remove: a}}],
            request_trailers_mutations: [{{remove: a}}],
            response_trailers_mutations: [{{remove: a}}],
            response_mutations: [{{append: {{header: {{key: a, value: "%NOPE%"}}}}}}]}}}}"#
    ));
    testing::assert_says(
        &found,
        &[
            "mutations.request_mutations[0].remove: :-prefixed or host headers may not be removed",
            "mutations.request_mutations[1].append.header.key: :-prefixed or host headers may not be modified",
            "mutations.query_parameter_mutations: not supported",
            "mutations.request_trailers_mutations: not supported",
            "mutations.response_trailers_mutations: not supported",
            "mutations.response_mutations[0].append.header.value: ",
        ],
    );
}

#[test]
fn per_route_settings_have_a_message_of_their_own() {
    let found = testing::route_errors(&format!(r#"{{"@type": {FILTER}}}"#));
    testing::assert_says(
        &found,
        &[&format!(
            "per-route settings of this filter are a `{PER_ROUTE}`"
        )],
    );
    assert!(testing::route_errors(&format!(r#"{{"@type": {PER_ROUTE}}}"#)).is_empty());
}
