//! `RateLimitPolicy`.

use std::time::Duration;

use outrigger_proto::envoy::r#type::v3::StatusCode;

use super::{Check, at_least_one, bounded, has_target, header_name, header_value, within};
use crate::{
    model::policy::{HeaderValue, RateLimitSpec, RefusalSpec, TargetKind},
    parse::Checks,
};

impl Check for RateLimitSpec {
    fn check(&self, checks: &mut Checks) {
        let Self {
            target_refs: _,
            requests,
            per,
            burst,
            response,
            side,
        } = self;
        at_least_one(Some(*requests), "spec.requests", checks);
        // Envoy fills no faster.
        if per.0 < Duration::from_millis(50) {
            checks.error("spec.per", "must be at least 50ms");
        }
        bounded(Some(*per), "spec.per", checks);
        if burst.is_some_and(|burst| burst < *requests) {
            checks.error("spec.burst", "less than spec.requests");
        }
        if side.is_server() && has_target(self, TargetKind::HttpRoute) {
            checks.error(
                "spec.side",
                "an HTTPRoute is of the callers: only client is possible for it",
            );
        }
        let RefusalSpec {
            status,
            headers,
            rate_limit_headers: _,
        } = response;
        // Envoy answers 429 to anything below.
        within(*status, (400, 599), "spec.response.status", checks);
        if let Some(status) = status.filter(|status| (400..600).contains(status))
            && StatusCode::try_from(i32::from(status)).is_err()
        {
            let message = format!("{status} is not one of the statuses that Envoy's API names");
            checks.error("spec.response.status", message);
        }
        if headers.len() > 10 {
            checks.error("spec.response.headers", "there can be at most 10");
        }
        for (index, HeaderValue { name, value }) in headers.iter().enumerate() {
            let path = format!("spec.response.headers[{index}]");
            header_name(name, &format!("{path}.name"), checks);
            header_value(value, &format!("{path}.value"), checks);
        }
    }
}
