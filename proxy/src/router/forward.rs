//! What a route does with a request: sends it to a cluster, or answers it.

use std::{rc::Rc, time::Instant};

use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use http_body::Body as _;

use super::{
    Match,
    attempt::{Attempt, note_ended},
    choice, failure,
    failure::Ended,
    hash::RequestHash,
    mirror::mirror,
    rewrite,
    table::Direction,
    timeout,
    timeout::Deadlines,
};
use crate::{
    config::route::{Action, ClusterSpecifier, Forward, HostRewrite},
    http::{Body, LocalReply, Response, StreamCx},
    telemetry::{
        format::{self, Context, Missing, RequestHead, RequestRecord},
        stream_info::ResponseFlags,
    },
    upstream::{
        Cluster, lb,
        pool::{Failure, UploadState},
    },
};

static SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
static ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

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
        Action::Forward(action) => send(cx, matched, action, parts, body).await,
        Action::Redirect(redirect) => {
            // Redirects count as direct responses too, as in Envoy.
            stats.rq_direct_response.inc();
            if let Some(path) = &redirect.path {
                rewrite::redirect_path(path, &matched.route.matches, &mut parts);
                cx.record(&parts);
            }
            let location = rewrite::location(redirect, cx.scheme.as_str(), &parts);
            let reply = LocalReply::new(redirect.status, "", "direct_response");
            Err(match location {
                Some(location) => reply.with_header(header::LOCATION, location),
                None => reply,
            })
        }
        Action::DirectResponse(direct) => {
            stats.rq_direct_response.inc();
            let reply = LocalReply::new(direct.status, direct.body.clone(), "direct_response");
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

async fn send(
    cx: &mut StreamCx,
    matched: &Match,
    action: &Forward,
    mut parts: Box<Parts>,
    body: Body,
) -> Result<Response, LocalReply> {
    let start = Instant::now();
    let place = matched.place;
    let Some(cluster) = cx.info.upstream.cluster.clone() else {
        return Err(cluster_not_found(cx, matched, action, &parts));
    };

    let timeout = timeout::route_timeout(action, &mut parts.headers);
    let virtual_host = matched.virtual_host();
    if virtual_host.include_request_attempt_count {
        parts
            .headers
            .insert(&ATTEMPT_COUNT, HeaderValue::from_static("1"));
    }
    if prepare(cx, matched, action, place, &mut parts) {
        cx.record(&parts);
    }
    // Of the request as the route makes it, as in Envoy.
    let hash = RequestHash::new(cx, action, &cluster, &parts);

    let worker = Rc::clone(cx.worker());
    let key = lb::Key {
        hash: hash.hash,
        attempt: 0,
    };
    let Some(host) = worker.pools.pick(&cluster, key, || worker.random()) else {
        cluster
            .stats
            .codes
            .count(StatusCode::SERVICE_UNAVAILABLE, cx.is_internal);
        return Err(no_healthy_upstream(matched, &cluster));
    };
    let body = mirror(cx, action, &parts, body, timeout);
    if let (Some(HostRewrite::Auto), Some(name)) = (&action.host_rewrite, &host.authority) {
        rewrite::set_host(
            name.clone(),
            action.append_x_forwarded_host,
            &mut parts.headers,
        );
        cx.record(&parts);
    }
    // Changes of the response may read the request, which goes away now.
    let record = matched
        .needed()
        .map(|needed| RequestRecord::new(&parts, &cx.scheme, needed));
    if record.is_some() && cx.record.is_none() {
        cx.record.clone_from(&record);
    }
    let upload = match body.is_end_stream() {
        true => None,
        false => Some(UploadState::new(cx.info.upstream.last_tx.clone())),
    };
    let deadlines = Deadlines::new(
        worker.timers.timer(),
        start,
        timeout,
        cluster.config.max_stream_duration,
        upload.clone(),
    );
    let attempt = Attempt {
        cluster,
        host,
        priority: action.priority,
        parts,
        body,
        deadlines,
        upload: upload.clone(),
        start,
    };
    let is_http2 = attempt.begin(cx);
    let outcome = if is_http2 {
        attempt.http2(cx).await
    } else {
        attempt.http1(cx).await
    };
    let (mut head, body) = match outcome {
        Ok(response) => response,
        Err(ended) => {
            note_ended(cx, &ended, is_http2);
            let is_complete = upload.is_none_or(|upload| upload.is_done());
            return Err(failed(cx, matched, action, &ended, is_complete));
        }
    };

    let request_end = match &upload {
        None => Some(start),
        Some(_) => cx.info.upstream.last_tx.get(),
    };
    if let (Some(end), Some(now)) = (request_end, cx.info.upstream.first_rx) {
        let millis = now.saturating_duration_since(end).as_millis();
        head.headers.insert(&SERVICE_TIME, small_number(millis));
    }
    if virtual_host.include_attempt_count_in_response {
        head.headers
            .insert(&ATTEMPT_COUNT, HeaderValue::from_static("1"));
    }
    cx.info.response_code = Some(head.status);
    cx.info.details = Some("via_upstream".into());
    hash.add_cookies(&mut head.headers);
    mutate_response(
        cx,
        matched,
        place,
        record.as_ref().map(RequestRecord::head),
        &mut head.headers,
    );
    Ok(Response::from_parts(head, body))
}

/// Applies a route's changes of responses to an answer of our own.
pub fn mutate_local_reply(cx: &StreamCx, matched: &Match, headers: &mut http::HeaderMap) {
    let request = cx.record.as_ref().map(RequestRecord::head);
    mutate_response(cx, matched, matched.place, request, headers);
}

fn mutate_response(
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
fn prepare(
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

fn cluster_not_found(
    cx: &StreamCx,
    matched: &Match,
    action: &Forward,
    parts: &Parts,
) -> LocalReply {
    cx.hcm().router_stats.no_cluster.inc();
    let name = choice::with_name(cx, matched, action, parts, |name| {
        String::from_utf8_lossy(name).into_owned()
    });
    LocalReply::new(action.cluster_not_found_status, "", "cluster_not_found")
        .with_flags(ResponseFlags::NO_CLUSTER_FOUND)
        .with_reason(format!(
            "no cluster '{}' ({})",
            name.unwrap_or_default(),
            matched.route.origin
        ))
}

fn no_healthy_upstream(matched: &Match, cluster: &Cluster) -> LocalReply {
    let hosts = cluster.hosts.load().hosts.len();
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no healthy upstream",
        "no_healthy_upstream",
    )
    .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM)
    .with_reason(format!(
        "no healthy host of {hosts} in cluster {} ({})",
        cluster.config.name, matched.route.origin
    ))
}

/// The answer to a request whose attempt failed, with what says why.
fn failed(
    cx: &StreamCx,
    matched: &Match,
    action: &Forward,
    ended: &Ended,
    is_request_complete: bool,
) -> LocalReply {
    let Some(cluster) = &cx.info.upstream.cluster else {
        return failure::reply(ended, is_request_complete);
    };
    let name = &cluster.config.name;
    let origin = &matched.route.origin;
    let host = cx.info.upstream.host.as_ref();
    let address = host.map_or_else(String::new, |host| host.address.to_string());
    let reason = match ended {
        Ended::Failed(Failure::Overflow(limit)) => {
            let resources = cluster.circuit.of(action.priority);
            let max = resources.limit(*limit).max();
            format!(
                "circuit-breaker {}={max} cluster {name} ({origin})",
                limit.name()
            )
        }
        Ended::Failed(Failure::Connect(failure)) if failure.is_timeout => format!(
            "connect_timeout={}ms to {address} in cluster {name} ({origin})",
            cluster.config.connect_timeout.as_millis()
        ),
        Ended::Failed(Failure::Connect(failure)) => {
            format!("connecting to {address} in cluster {name}: {failure} ({origin})")
        }
        Ended::Failed(_) => format!("{address} in cluster {name} gave no response ({origin})"),
        Ended::Expired(timeout::Expired::Route) => {
            format!("timeout of {origin}, cluster {name}")
        }
        Ended::Expired(timeout::Expired::Life) => {
            format!("max_stream_duration of cluster {name} ({origin})")
        }
    };
    let reply = failure::reply(ended, is_request_complete).with_reason(reason);
    // Envoy's upstream response codes leave out streams that lasted too long.
    if !matches!(ended, Ended::Expired(timeout::Expired::Life)) {
        cluster.stats.codes.count(reply.status, cx.is_internal);
    }
    reply
}

/// The header value of a number that is nearly always small.
fn small_number(number: u128) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match usize::try_from(number)
        .ok()
        .and_then(|index| DIGITS.get(index))
    {
        Some(digit) => HeaderValue::from_static(digit),
        None => HeaderValue::from(u64::try_from(number).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_become_values() {
        assert_eq!(small_number(0), "0");
        assert_eq!(small_number(9), "9");
        assert_eq!(small_number(1234), "1234");
    }
}
