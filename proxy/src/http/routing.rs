//! What a stream makes of the route that was found for it, or of there being none.

use http::request::Parts;

use super::StreamCx;
use crate::{config::route::Action, router, telemetry::format::RequestHead};

/// The route's own limits replace the connection manager's.
pub(super) fn deadlines(cx: &StreamCx, action: &Action, headers: &mut http::HeaderMap) {
    let Action::Forward(forward) = action else {
        return;
    };
    if let Some(idle) = forward.idle_timeout {
        cx.activity.idle_timeout.set(idle);
    }
    if let Some(max) = router::max_stream_duration(forward, headers) {
        cx.activity
            .max_deadline
            .set((!max.is_zero()).then(|| cx.info.start + max));
    }
}

/// Why no route was found.
pub(super) fn no_route_reason(cx: &StreamCx, parts: &Parts) -> String {
    let head = RequestHead::new(parts, &cx.scheme);
    let host = head
        .authority()
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    match &cx.info.route_table {
        Some(table) => {
            format!(
                "no route in {table} for {} {host}{}",
                parts.method, head.path
            )
        }
        None => "the route configuration is not there yet".to_owned(),
    }
}
