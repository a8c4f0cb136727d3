//! The whole life of one stream.

use std::{pin::pin, rc::Rc, sync::Arc, time::Instant};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use http::{Method, StatusCode, Version, header, request::Parts, uri::Scheme};

use super::{
    Body, DownstreamCx, LocalReply, Response, StreamCx, Upgrade,
    activity::{Activity, Expiry},
    headers::{self, Origin, ResponseCx, Seen},
    http1,
    local_reply::{self, ReplyTo},
    request_body,
    response_body::ResponseBody,
    routing, strict,
    upgrade::{self, Switched},
};
use crate::{
    config::route::Action,
    filters::http::Chain,
    router,
    telemetry::{
        format::RequestRecord,
        stream_info::{ResponseFlags, StreamInfo},
    },
    worker::Timer,
};

/// One stream from its first byte to its record. Whoever holds it must [`Stream::finish`] it; dropping
/// it unfinished means that the client went away.
#[derive(Debug)]
pub struct Stream {
    /// What filters and the router see.
    pub cx: StreamCx,
    chain: Chain,
    timer: Timer,
    request: RequestKind,
    /// Response headers that logs and spans need.
    pub(super) logged_response: Option<http::HeaderMap>,
    is_finished: bool,
}

/// What must be remembered of a request after its head has gone upstream.
#[derive(Clone, Copy, Debug, Default)]
struct RequestKind {
    is_head: bool,
    is_grpc: bool,
    /// CONNECT, or asks for another protocol.
    is_upgrade: bool,
    /// It may have it.
    is_upgraded: bool,
    /// `proxy-connection: close`
    wants_close: bool,
}

impl Stream {
    /// A stream begins on `connection`.
    #[must_use]
    pub fn new(connection: &Rc<DownstreamCx>, version: Version) -> Box<Self> {
        let info = StreamInfo::new(Rc::clone(&connection.info), version);
        let config = &connection.hcm.config;
        let stats = &connection.hcm.stats;
        stats.rq_total.inc();
        if version == Version::HTTP_2 {
            stats.rq_http2_total.inc();
        } else {
            stats.rq_http1_total.inc();
        }
        stats.rq_active.inc();
        connection.streams.set(connection.streams.get() + 1);
        connection.requests.set(connection.requests.get() + 1);
        if version != Version::HTTP_2
            && config.max_requests_per_connection == connection.requests.get()
        {
            stats.cx_max_requests_reached.inc();
        }
        let activity = Activity::new(info.start);
        activity.idle_timeout.set(config.stream_idle_timeout);
        if !config.request_timeout.is_zero() {
            activity
                .request_deadline
                .set(Some(info.start + config.request_timeout));
        }
        activity
            .max_deadline
            .set(config.max_stream_duration.map(|max| info.start + max));
        Box::new(Self {
            timer: connection.worker.timers.timer(),
            request: RequestKind::default(),
            logged_response: None,
            is_finished: false,
            chain: Chain::default(),
            cx: StreamCx {
                connection: Rc::clone(connection),
                snapshot: connection.worker.snapshot(),
                info,
                matched: None,
                scheme: Scheme::HTTP,
                is_internal: false,
                record: None,
                upgrade: Upgrade::No,
                activity: Rc::new(activity),
                kept: Vec::new(),
            },
        })
    }

    /// Serves the request: headers → route → filters → upstream → filters reversed → response. The head
    /// is boxed once here: futures keep what they take at each level, and are copied whole.
    pub async fn serve(
        mut self: Box<Self>,
        parts: Box<Parts>,
        body: Body,
    ) -> http::Response<ResponseBody> {
        let activity = Rc::clone(&self.cx.activity);
        let mut timer = std::mem::replace(&mut self.timer, self.cx.worker().timers.timer());
        self.request.is_head = parts.method == Method::HEAD;
        if matches!(body, Body::Empty) {
            activity.complete_request();
        }
        let limited = {
            // Pinned here: a future that is handed on by value takes its size twice.
            let respond = pin!(self.respond(parts, body));
            activity.limit(&mut timer, respond).await
        };
        let outcome = match limited {
            // Whatever the upstream made of it: the client is to be told what it did wrong.
            Ok(Err(_)) if activity.is_request_broken.get() => Err(strict::body_failure()),
            Ok(outcome) => outcome,
            Err(expiry) => {
                self.count_expiry(expiry);
                // It is answered; what the client makes of that is another matter.
                activity.expired.set(None);
                Err(expiry.reply(activity.is_request_complete.get()))
            }
        };
        self.timer = timer;
        let (response, is_local) = match outcome {
            Ok(response) => (response, false),
            Err(reply) => (self.answer_through_filters(reply).await, true),
        };
        self.begin_response(response, is_local)
    }

    async fn respond(&mut self, mut parts: Box<Parts>, body: Body) -> Result<Response, LocalReply> {
        let cx = &mut self.cx;
        let connection = Rc::clone(&cx.connection);
        let hcm = &connection.hcm;

        // 1. Is the head acceptable? What comes from the codec is refused before anything is known.
        let is_http2 = parts.version == Version::HTTP_2;
        let mut seen = Seen::of(&parts.headers);
        if is_http2 {
            strict::check_http2(&mut parts, &seen, &hcm.config)?;
        } else {
            strict::check_http1(&mut parts, &seen, &hcm.config, &connection.watch)?;
        }
        if seen.connection {
            // What it nominated is gone.
            seen = Seen::of(&parts.headers);
        }
        self.request.is_grpc = seen.content_type && local_reply::is_grpc(&parts.headers);
        cx.record(&parts);
        if !is_http2 && connection.watch.has_fragment() {
            hcm.stats.rq_failed_path_normalization.inc();
            return Err(headers::bad_path());
        }
        let checked = headers::check_request(&mut parts, &seen, &hcm.config, connection.info.local);
        cx.record(&parts);
        checked.inspect_err(|reply| count_refusal(cx, reply))?;
        let is_upgrade = parts.method == Method::CONNECT
            || (!is_http2
                && seen.upgrade
                && parts.headers.contains_key(header::UPGRADE)
                && headers::wants_upgrade(&parts.headers));
        self.request.is_upgrade = is_upgrade;
        if is_upgrade && parts.method != Method::CONNECT {
            upgrade::begin(cx, &parts.headers, &mut seen);
        }
        self.request.wants_close = (seen.proxy_connection || parts.version == Version::HTTP_10)
            && headers::wants_close(&parts);

        // 2. Who asks, and what the next hop may know of it.
        let table = hcm.table(&cx.snapshot);
        let internal_only = table.map_or(&[][..], |table| &table.config.internal_only_headers);
        let origin = Origin {
            remote: connection.info.remote,
            local: connection.info.local,
            own_address: hcm.own_address,
            service_cluster: &hcm.service_cluster,
            service_node: &hcm.service_node,
        };
        let prepared = headers::prepare_request(
            &mut parts,
            &seen,
            &hcm.config,
            internal_only,
            &origin,
            || connection.worker.random(),
        );
        cx.info.downstream_remote = prepared.client;
        cx.info.request_id = prepared.request_id;
        cx.scheme = prepared.scheme;
        cx.is_internal = prepared.is_internal;

        // 3. Which route; the stream keeps it to its end.
        if let Some(table) = table {
            cx.info.route_table = Some(Arc::clone(&table.config.name));
            // CONNECT needs a route that says so, which we do not have.
            if parts.method != Method::CONNECT {
                cx.matched = table.find(&parts, &cx.scheme, cx.is_internal);
                router::choose_cluster(cx, &parts);
            }
        }
        if let Some(matched) = &cx.matched {
            cx.info.route = Some(Arc::clone(&matched.route));
            cx.info.virtual_host = Some(Arc::clone(&matched.virtual_host().name));
            routing::deadlines(cx, &matched.route.action, &mut parts.headers);
        }
        if let Some(tracer) = &hcm.tracer {
            tracer.start(&mut parts.headers, &mut cx.info);
        }
        cx.record(&parts);
        if cx.upgrade != Upgrade::No {
            upgrade::check(cx, &parts, &body)?;
            hcm.stats.cx_upgrades_total.inc();
            hcm.stats.cx_upgrades_active.inc();
            self.request.is_upgraded = true;
        }

        // 4. Filters, in order; any may answer.
        let body = match cx.upgrade {
            Upgrade::No => {
                request_body::watch(body, cx, !is_http2 && !hcm.config.http1.enable_trailers)
            }
            Upgrade::WebSocket | Upgrade::Other => body,
        };
        let overrides = cx.matched.as_ref().and_then(router::Match::filters);
        let chain = &mut self.chain;
        chain.begin(&hcm.filters, overrides);
        chain.request_headers(&hcm.filters, &mut parts, cx).await?;

        // 5. The router, which ends the chain.
        let Some(matched) = cx.matched.clone() else {
            hcm.router_stats.no_route.inc();
            return Err(
                LocalReply::new(StatusCode::NOT_FOUND, "", "route_not_found")
                    .with_flags(ResponseFlags::NO_ROUTE_FOUND)
                    .with_reason(routing::no_route_reason(cx, &parts)),
            );
        };
        let mut response = router::forward(cx, &matched, parts, body).await?;

        // 6. Filters, in reverse.
        chain
            .response_headers(&hcm.filters, &mut response, cx)
            .await?;
        Ok(response)
    }

    /// Our own answer passes the response side of every filter, as in Envoy; one that a filter gives
    /// there goes out as it is.
    async fn answer_through_filters(&mut self, reply: LocalReply) -> Response {
        let connection = Rc::clone(&self.cx.connection);
        let filters = &connection.hcm.filters;
        let status = reply.status;
        let mut response = self.answer(reply);
        let cx = &mut self.cx;
        // What formats read; a gRPC response has another one in the end.
        cx.info.response_code = Some(status);
        let overrides = cx.matched.as_ref().and_then(router::Match::filters);
        self.chain.begin(filters, overrides);
        match self
            .chain
            .response_headers(filters, &mut response, cx)
            .await
        {
            Ok(()) => response,
            Err(reply) => self.answer(reply),
        }
    }

    /// Makes our own answer and notes why.
    fn answer(&mut self, mut reply: LocalReply) -> Response {
        let cx = &mut self.cx;
        let hcm = Rc::clone(&cx.connection).hcm.clone();
        let to = ReplyTo {
            is_grpc: self.request.is_grpc,
            shows_reason: hcm.shows_reason,
        };
        let mut response = local_reply::into_response(&mut reply, to);
        cx.info.flags.insert(reply.flags);
        if reply
            .flags
            .contains(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
        {
            hcm.stats.cx_protocol_error.inc();
        }
        cx.info.details = Some(std::mem::take(&mut reply.details));
        cx.info.reason = reply.reason.take();
        // Replies of others than the route get its changes only where it leads to a cluster, as in Envoy.
        if let Some(matched) = &cx.matched
            && !reply.is_whole
            && (reply.is_of_route || matches!(matched.route.action, Action::Forward(_)))
        {
            router::mutate_local_reply(cx, matched, response.headers_mut());
        }
        response
    }

    /// The last changes of the response's head; its body takes the stream along.
    fn begin_response(
        mut self: Box<Self>,
        response: Response,
        is_local: bool,
    ) -> http::Response<ResponseBody> {
        let now = Instant::now();
        let (mut head, body) = response.into_parts();
        let connection = Rc::clone(&self.cx.connection);
        let hcm = &connection.hcm;
        let info = &mut self.cx.info;
        let is_http1 = info.protocol != Version::HTTP_2;
        // A 400 says that the message made no sense: what follows on an HTTP/1 connection may not either.
        let is_bad = is_local
            && (head.status == StatusCode::BAD_REQUEST
                || info
                    .flags
                    .contains(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
                || self.request.is_upgrade)
            && !hcm.config.stream_error_on_invalid_http_message;
        let is_request_complete = self.cx.activity.is_request_complete.get();
        let switches = matches!(body, Body::Upgraded(_));
        let is_to_go = is_http1 && connection.is_to_go();
        let is_last = connection.has_max_requests();
        let is_drained = is_to_go || is_last;
        if is_to_go && !is_last {
            hcm.stats.cx_drain_close.inc();
        }
        let cx = ResponseCx {
            date: connection
                .worker
                .date(info.start_time + now.duration_since(info.start)),
            request_id: info.request_id.as_ref(),
            is_local,
            closes: is_http1
                && !switches
                && (is_bad
                    || is_drained
                    || self.request.wants_close
                    // What follows is no request.
                    || self.cx.upgrade != Upgrade::No
                    || (is_local && !is_request_complete)),
            keeps_upgrade: self.cx.upgrade != Upgrade::No && !is_local,
            switches,
        };
        headers::finish_response(&mut head.headers, &hcm.config, cx);
        if let Some(tracer) = &hcm.tracer {
            tracer.respond(&mut head.headers, info);
        }
        head.extensions.remove::<hyper::ext::ReasonPhrase>();
        info.response_code = Some(head.status);
        info.downstream.first_tx = Some(now);
        self.cx.activity.last.set(now);
        self.log_response(&head.headers);
        if is_http1 {
            *connection.responding.borrow_mut() = Some(Rc::clone(&self.cx.activity));
        }
        if let Body::Upgraded(upstream) = body {
            let stream = self;
            connection
                .switched
                .replace(Some(Switched { stream, upstream }));
            return http::Response::from_parts(head, ResponseBody::none());
        }
        let is_bodyless = self.request.is_head;
        let drops_trailers = is_http1 && !hcm.config.http1.enable_trailers;
        let body = ResponseBody::new(body, self, is_bodyless, drops_trailers);
        http::Response::from_parts(head, body)
    }
}

impl Stream {
    /// Answers what never became a request: the text to send, and the stream to be completed.
    pub(super) fn refuse(mut self: Box<Self>, reply: LocalReply) -> (BytesMut, Refused) {
        let status = reply.status;
        // There is nobody who could wait with this one: a filter that must is left out with all others.
        let answered = self.answer_through_filters(reply).now_or_never();
        let mut response = answered.unwrap_or_else(|| {
            let mut response = Response::default();
            *response.status_mut() = status;
            response
        });
        let connection = Rc::clone(&self.cx.connection);
        let cx = ResponseCx {
            date: connection.worker.date(self.cx.info.start_time),
            request_id: None,
            is_local: true,
            closes: true,
            keeps_upgrade: false,
            switches: false,
        };
        headers::finish_response(response.headers_mut(), &connection.hcm.config, cx);
        self.cx.info.response_code = Some(status);
        self.log_response(response.headers());
        if let Body::Full(body) = response.body() {
            self.cx.info.bytes_sent.set(body.len() as u64);
        }
        (http1::text_of(&response), Refused(self))
    }
}

/// A refused stream whose answer is being sent.
#[derive(Debug)]
pub(super) struct Refused(Box<Stream>);

impl Refused {
    /// The answer is sent.
    pub(super) fn complete(mut self) {
        self.0.finish(&Outcome::Complete, None);
    }
}

/// How a stream ended.
#[derive(Debug)]
pub enum Outcome {
    /// The response went out completely.
    Complete,
    /// The response's body failed, with what is to be noted.
    Failed(ResponseFlags, &'static str),
    /// The client reset the stream or closed the connection.
    Downstream,
}

impl Stream {
    /// Ends the stream's record: statistics, access log, span. Only the first call counts.
    pub fn finish(&mut self, outcome: &Outcome, trailers: Option<&http::HeaderMap>) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let now = Instant::now();
        let mut kept = std::mem::take(&mut self.cx.kept);
        if let (Outcome::Downstream, Some(expiry)) = (outcome, self.cx.activity.expired.get()) {
            self.count_expiry(expiry);
        }
        let connection = &self.cx.connection;
        let hcm = &connection.hcm;
        let info = &mut self.cx.info;
        info.downstream.last_tx = Some(now);
        let is_upgrade = self.cx.upgrade != Upgrade::No;
        if self.request.is_upgraded {
            hcm.stats.cx_upgrades_active.dec();
        }
        match outcome {
            Outcome::Complete => {
                hcm.stats.rq_time.record(millis(now, info.start));
                if !is_upgrade && !self.cx.activity.is_request_complete.get() {
                    hcm.stats.rq_response_before_rq_complete.inc();
                }
            }
            Outcome::Failed(flags, details) => {
                info.flags.insert(*flags);
                info.details = Some((*details).into());
                hcm.stats.rq_tx_reset.inc();
            }
            Outcome::Downstream => match self.cx.activity.expired.get() {
                Some(expiry) => {
                    info.flags.insert(expiry.reply(true).flags);
                    info.details = Some(expiry.details().into());
                    hcm.stats.rq_tx_reset.inc();
                }
                None => {
                    info.flags
                        .insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                    info.details = Some("downstream_remote_disconnect".into());
                    hcm.stats.rq_rx_reset.inc();
                }
            },
        }
        if is_upgrade {
            // Such a request has no end: whatever ends the stream cuts it off.
            if info.response_code.is_some() {
                hcm.stats.rq_response_before_rq_complete.inc();
            }
            let is_counted =
                matches!(outcome, Outcome::Downstream) && self.cx.activity.expired.get().is_none();
            if !is_counted {
                hcm.stats.rq_rx_reset.inc();
            }
        }
        if let Some(status) = info.response_code
            && !info.is_health_check
        {
            hcm.stats.rq.count(status);
            hcm.listener_responses.count(status);
        }
        hcm.stats.rq_active.dec();
        connection
            .streams
            .set(connection.streams.get().saturating_sub(1));
        connection.idle_since.set(now);
        *connection.responding.borrow_mut() = None;
        *connection.receiving.borrow_mut() = None;
        // Only HTTP/1 goes on with another head; HTTP/2 has frames of other streams to send.
        if info.protocol != Version::HTTP_2 {
            connection.watch.finish_stream();
        }
        for kept in &mut kept {
            kept.finish(info, trailers);
        }
        if hcm.needed.is_some() {
            let cx = crate::telemetry::format::Context {
                info,
                request: self.cx.record.as_ref().map(RequestRecord::head),
                response: self.logged_response.as_ref(),
                trailers,
            };
            hcm.access_logs.log(&cx);
            if let Some(tracer) = &hcm.tracer {
                tracer.finish(&cx);
            }
        }
    }

    fn log_response(&mut self, headers: &http::HeaderMap) {
        let Some(needed) = &self.cx.connection.hcm.needed else {
            return;
        };
        let needed = &needed.response;
        let mut kept = http::HeaderMap::with_capacity(needed.len());
        for name in needed {
            if let Some(value) = headers.get(name) {
                kept.insert(name.clone(), value.clone());
            }
        }
        self.logged_response = Some(kept);
    }

    fn count_expiry(&self, expiry: Expiry) {
        let stats = &self.cx.hcm().stats;
        match expiry {
            Expiry::Idle => stats.rq_idle_timeout.inc(),
            Expiry::Request => stats.rq_timeout.inc(),
            Expiry::RequestHeaders => stats.rq_header_timeout.inc(),
            Expiry::MaxDuration => stats.rq_max_duration_reached.inc(),
            // The router counts it.
            Expiry::Response(_) => {}
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.finish(&Outcome::Downstream, None);
    }
}

fn millis(now: Instant, start: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX)
}

fn count_refusal(cx: &StreamCx, reply: &LocalReply) {
    let stats = &cx.hcm().stats;
    match &*reply.details {
        "absolute_path_rejected" => stats.rq_non_relative_path.inc(),
        "path_normalization_failed" if reply.status == StatusCode::TEMPORARY_REDIRECT => {
            stats.rq_redirected_with_normalized_path.inc();
        }
        "path_normalization_failed" => stats.rq_failed_path_normalization.inc(),
        _ => {}
    }
}
