//! What a route does with a request: sends it to a cluster, or answers it.

use http::{HeaderValue, StatusCode, header, request::Parts};

use super::{Match, rewrite, run, table::Direction};
use crate::{
    config::route::{Action, ClusterSpecifier, Forward},
    http::{Body, LocalReply, Response, StreamCx},
    telemetry::format::{self, Context, Missing, RequestHead, RequestRecord},
};

/// Does what the route says.
///
/// # Errors
/// The answer that the proxy gives itself: redirects and direct responses, and every failure to get a
/// response from upstream.
pub async fn forward(
    cx: &mut StreamCx,
    matched: &Match,
    mut parts: Box<Parts>,
    body: Body,
) -> Result<Response, LocalReply> {
    let stats = &cx.hcm().router_stats;
    stats.rq_total.inc();
    match &matched.route.action {
        Action::Forward(action) => run::run(cx, matched, action, parts, body).await,
        Action::Redirect(redirect) => {
            // Redirects count as direct responses too, as in Envoy.
            stats.rq_direct_response.inc();
            if let Some(path) = &redirect.path {
                rewrite::redirect_path(path, &matched.route.matches, &mut parts);
                cx.record(&parts);
            }
            let location = rewrite::location(redirect, cx.scheme.as_str(), &parts);
            let reply = LocalReply::new(redirect.status, "", "direct_response").of_route();
            Err(match location {
                Some(location) => reply.with_header(header::LOCATION, location),
                None => reply,
            })
        }
        Action::DirectResponse(direct) => {
            stats.rq_direct_response.inc();
            let reply =
                LocalReply::new(direct.status, direct.body.clone(), "direct_response").of_route();
            let has_location =
                direct.status == StatusCode::CREATED || direct.status.is_redirection();
            Err(match has_location.then(|| own_url(cx, &parts)).flatten() {
                Some(location) => reply.with_header(header::LOCATION, location),
                None => reply,
            })
        }
    }
}

/// The URL that was asked for: where what a direct response says was created is.
fn own_url(cx: &StreamCx, parts: &Parts) -> Option<HeaderValue> {
    let host = parts.headers.get(header::HOST)?.to_str().ok()?;
    let scheme = cx.scheme.as_str();
    HeaderValue::try_from(format!("{scheme}://{host}{}", parts.uri)).ok()
}

/// Applies a route's changes of responses to an answer of our own.
pub fn mutate_local_reply(cx: &StreamCx, matched: &Match, headers: &mut http::HeaderMap) {
    let request = cx.record.as_ref().map(RequestRecord::head);
    mutate_response(cx, matched, matched.place, request, headers);
}

pub(super) fn mutate_response(
    cx: &StreamCx,
    matched: &Match,
    place: Option<usize>,
    request: Option<RequestHead<'_>>,
    headers: &mut http::HeaderMap,
) {
    for mutations in matched.mutations(Direction::Response, place) {
        mutations.apply(
            headers,
            |headers| headers,
            |headers, format, text| {
                let context = Context {
                    info: &cx.info,
                    request,
                    response: Some(headers),
                    trailers: None,
                };
                format::write(format, &context, Missing::Empty, text);
            },
        );
    }
}

/// Changes the head as the route and the levels above it say: headers, then host, then path. Whether
/// there was anything to change.
pub(super) fn prepare(
    cx: &StreamCx,
    matched: &Match,
    action: &Forward,
    place: Option<usize>,
    parts: &mut Parts,
) -> bool {
    let mut own_host = None;
    let mut is_changed = action.host_rewrite.is_some() || action.path_rewrite.is_some();
    if let (ClusterSpecifier::Weighted(weighted), Some(place)) = (&action.cluster, place) {
        own_host = weighted
            .clusters
            .get(place)
            .and_then(|cluster| cluster.host_rewrite.clone());
    }
    for mutations in matched.mutations(Direction::Request, place) {
        is_changed = true;
        mutations.apply(
            parts,
            |parts| &mut parts.headers,
            |parts, format, text| {
                let request = Some(RequestHead::new(parts, &cx.scheme));
                let context = Context {
                    info: &cx.info,
                    request,
                    response: None,
                    trailers: None,
                };
                format::write(format, &context, Missing::Empty, text);
            },
        );
    }
    if let Some(host) = own_host {
        is_changed = true;
        parts.headers.insert(header::HOST, host);
    } else if let Some(host) = &action.host_rewrite {
        rewrite::rewrite_host(host, action.append_x_forwarded_host, parts);
    }
    if let Some(path) = &action.path_rewrite {
        rewrite::rewrite_path(path, &matched.route.matches, parts);
    }
    is_changed
}
