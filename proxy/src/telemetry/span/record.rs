//! A finished stream as OpenTelemetry spans, with the HTTP semantic conventions' attributes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Version};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{
        Span, Status,
        span::{Event, SpanKind},
        status::StatusCode,
    },
};

use super::{ActiveSpan, CustomTag, CustomTagValue};
use crate::{
    config::tracing::Tracing,
    telemetry::format::{self, Context, Missing},
};

/// What spans of a stream are made from.
pub(super) struct Recorder<'a> {
    pub(super) config: &'a Tracing,
    pub(super) route_tags: &'a [CustomTag],
    pub(super) is_outbound: bool,
    pub(super) span: &'a ActiveSpan,
    pub(super) cx: &'a Context<'a>,
    pub(super) end: SystemTime,
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }

    fn text(&mut self, key: &str, value: impl Into<String>) {
        self.add(key, Value::StringValue(value.into()));
    }

    fn bytes(&mut self, key: &str, value: &[u8]) {
        self.text(key, String::from_utf8_lossy(value));
    }

    fn number(&mut self, key: &str, value: impl TryInto<i64>) {
        self.add(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }
}

impl Recorder<'_> {
    /// The span of the stream: of kind server, or client on an outbound listener that makes no
    /// separate span for the upstream.
    pub(super) fn own_span(&self) -> Span {
        let is_client = self.is_outbound && self.span.upstream_id.is_none();
        let kind = if is_client {
            SpanKind::Client
        } else {
            SpanKind::Server
        };
        let mut attributes = Attributes::default();
        self.add_request(&mut attributes, is_client);
        self.add_response(&mut attributes);
        if is_client || self.span.upstream_id.is_none() {
            self.add_upstream(&mut attributes, is_client);
        }
        self.add_tags(&mut attributes);
        let info = self.cx.info;
        Span {
            parent_span_id: self
                .span
                .parent_id
                .map_or_else(Vec::new, |id| id.to_be_bytes().into()),
            ..self.span(
                self.span.span_id,
                kind,
                attributes,
                info.start,
                info.downstream.last_tx,
            )
        }
    }

    /// The span of the request to the upstream; none if it never left.
    pub(super) fn upstream_span(&self, id: u64) -> Option<Span> {
        let upstream = &self.cx.info.upstream;
        upstream.cluster.as_ref()?;
        let mut attributes = Attributes::default();
        self.add_request(&mut attributes, true);
        self.add_response(&mut attributes);
        self.add_upstream(&mut attributes, true);
        let start = upstream.first_tx.unwrap_or(self.cx.info.start);
        let end = upstream.last_rx.or(self.cx.info.downstream.last_tx);
        Some(Span {
            parent_span_id: self.span.span_id.to_be_bytes().into(),
            ..self.span(id, SpanKind::Client, attributes, start, end)
        })
    }

    fn span(
        &self,
        id: u64,
        kind: SpanKind,
        attributes: Attributes,
        start: Instant,
        end: Option<Instant>,
    ) -> Span {
        let tracestate = self
            .span
            .tracestate
            .as_ref()
            .and_then(|value| value.to_str().ok());
        Span {
            trace_id: self.span.trace_id.to_be_bytes().into(),
            span_id: id.to_be_bytes().into(),
            trace_state: tracestate.unwrap_or_default().to_owned(),
            flags: u32::from(self.span.sampled),
            name: self.name(),
            kind: kind.into(),
            start_time_unix_nano: self.nanos(start),
            end_time_unix_nano: end.map_or_else(|| unix_nanos(self.end), |end| self.nanos(end)),
            attributes: attributes.0,
            events: self.events(),
            status: self.status(),
            ..Span::default()
        }
    }

    /// The moments of the stream, by Envoy's names, where the configuration wants them (`verbose`).
    fn events(&self) -> Vec<Event> {
        if !self.config.verbose {
            return Vec::new();
        }
        let downstream = &self.cx.info.downstream;
        let upstream = &self.cx.info.upstream;
        [
            ("last_downstream_rx_byte_received", downstream.last_rx.get()),
            ("first_upstream_tx_byte_sent", upstream.first_tx),
            ("last_upstream_tx_byte_sent", upstream.last_tx.get()),
            ("first_upstream_rx_byte_received", upstream.first_rx),
            ("last_upstream_rx_byte_received", upstream.last_rx),
            ("first_downstream_tx_byte_sent", downstream.first_tx),
            ("last_downstream_tx_byte_sent", downstream.last_tx),
        ]
        .into_iter()
        .filter_map(|(name, moment)| {
            Some(Event {
                time_unix_nano: self.nanos(moment?),
                name: name.to_owned(),
                ..Event::default()
            })
        })
        .collect()
    }

    /// A moment of the stream by the wall clock.
    fn nanos(&self, moment: Instant) -> u64 {
        let info = self.cx.info;
        unix_nanos(info.start_time) + as_nanos(info.since_start(moment))
    }

    /// What the peer says, the route's decorator, the configured operation, or method and route.
    fn name(&self) -> String {
        let info = self.cx.info;
        let route = info.route.as_deref();
        if let Some(operation) = &self.span.operation {
            return String::from_utf8_lossy(operation.as_bytes()).into_owned();
        }
        if let Some(operation) = route.and_then(|route| route.operation.as_ref()) {
            return String::from(&**operation);
        }
        if let Some(operation) = &self.config.operation {
            let mut name = Vec::new();
            format::write(operation, self.cx, Missing::Empty, &mut name);
            if !name.is_empty() {
                return String::from_utf8_lossy(&name).into_owned();
            }
        }
        let method = self
            .cx
            .request
            .map_or("HTTP", |request| request.method.as_str());
        match route.map(|route| &*route.name) {
            Some(name) if !name.is_empty() => format!("{method} {name}"),
            _ => method.to_owned(),
        }
    }

    fn status(&self) -> Option<Status> {
        let info = self.cx.info;
        let is_error = info.response_code.is_none_or(|code| code.is_server_error());
        is_error.then(|| Status {
            code: StatusCode::Error.into(),
            message: info.details.as_deref().unwrap_or_default().to_owned(),
        })
    }

    fn add_request(&self, attributes: &mut Attributes, is_client: bool) {
        let info = self.cx.info;
        let Some(request) = self.cx.request else {
            return;
        };
        attributes.text("http.request.method", request.method.as_str());
        let (path, query) = match request.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.path, None),
        };
        let path = cut(path, self.config.max_path_tag_length);
        let authority = request
            .authority()
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        if is_client {
            let scheme = request.scheme;
            attributes.text("url.full", format!("{scheme}://{authority}{path}"));
        }
        attributes.text("url.scheme", request.scheme);
        attributes.text("url.path", path);
        if let Some(query) = query {
            attributes.text("url.query", cut(query, self.config.max_path_tag_length));
        }
        let (host, port) = split_authority(authority);
        if !host.is_empty() {
            attributes.text("server.address", host);
        }
        if let Some(port) = port {
            attributes.number("server.port", port);
        }
        if let Some(agent) = request.headers.get(http::header::USER_AGENT) {
            attributes.bytes("user_agent.original", agent.as_bytes());
        }
        if let Some(id) = &info.request_id {
            attributes.bytes("guid:x-request-id", id.as_bytes());
        }
        if !is_client {
            attributes.text("client.address", info.downstream_remote.ip().to_string());
            attributes.text(
                "network.peer.address",
                info.connection.remote.ip().to_string(),
            );
            attributes.number("network.peer.port", info.connection.remote.port());
        }
        let version = match is_client {
            true => info.upstream.protocol.unwrap_or(info.protocol),
            false => info.protocol,
        };
        attributes.text("network.protocol.name", "http");
        attributes.text(
            "network.protocol.version",
            match version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2",
                _ => "1.1",
            },
        );
        attributes.number("http.request.body.size", info.bytes_received.get());
    }

    fn add_response(&self, attributes: &mut Attributes) {
        let info = self.cx.info;
        if let Some(code) = info.response_code {
            attributes.number("http.response.status_code", code.as_u16());
            if code.is_server_error() {
                attributes.text("error.type", code.as_str());
            }
        }
        if let Some(status) = format::grpc_status(self.cx) {
            attributes.number("rpc.grpc.status_code", status);
        }
        attributes.number("http.response.body.size", info.bytes_sent.get());
        if !info.flags.is_empty() {
            attributes.text("outrigger.response_flags", info.flags.to_string());
        }
        if let Some(details) = &info.details {
            attributes.text("outrigger.response_code_details", &**details);
        }
        if let Some(reason) = &info.reason {
            attributes.text("outrigger.reason", &**reason);
        }
    }

    fn add_upstream(&self, attributes: &mut Attributes, is_client: bool) {
        let upstream = &self.cx.info.upstream;
        if let Some(name) = self.cx.info.cluster_name() {
            attributes.text("upstream_cluster", &**name);
        }
        if let Some(host) = &upstream.host {
            attributes.text("upstream_address", host.address.to_string());
            if is_client {
                attributes.text("network.peer.address", host.address.ip().to_string());
                attributes.number("network.peer.port", host.address.port());
            }
        }
        if let Some(failure) = &upstream.transport_failure {
            attributes.text("outrigger.transport_failure", &**failure);
        }
    }

    /// Tags of the route win over those of the connection manager.
    fn add_tags(&self, attributes: &mut Attributes) {
        let values = self.span.route_values.iter().map(Option::as_ref);
        for (tag, sent) in self.route_tags.iter().zip(values) {
            add_tag(attributes, tag, sent);
        }
        for tag in &self.config.custom_tags {
            if !self.route_tags.iter().any(|own| own.tag == tag.tag) {
                let sent = self.cx.request.and_then(|request| match &tag.value {
                    CustomTagValue::RequestHeader { name, .. } => request.headers.get(name),
                    CustomTagValue::Literal(_) => None,
                });
                add_tag(attributes, tag, sent);
            }
        }
    }
}

fn add_tag(attributes: &mut Attributes, tag: &CustomTag, sent: Option<&HeaderValue>) {
    match (&tag.value, sent) {
        (CustomTagValue::Literal(value), _) => attributes.text(&tag.tag, &**value),
        (CustomTagValue::RequestHeader { .. }, Some(value)) => {
            attributes.bytes(&tag.tag, value.as_bytes());
        }
        (CustomTagValue::RequestHeader { default, .. }, None) => {
            if let Some(default) = default {
                attributes.text(&tag.tag, &**default);
            }
        }
    }
}

fn unix_nanos(moment: SystemTime) -> u64 {
    as_nanos(moment.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// At most `length` bytes, cut between characters.
fn cut(text: &str, length: u32) -> &str {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    text.get(..text.floor_char_boundary(length)).unwrap_or(text)
}

fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}
