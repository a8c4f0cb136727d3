//! Spans: trace context read from requests and passed on, the sampling decision, and the spans of
//! finished streams on their way to the exporter.
//!
//! A stream that is not sampled costs reading and writing its headers, nothing else.

mod propagation;
mod record;
mod sampling;

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

use self::propagation::{Forms, Incoming};
use super::{
    format::{Context, NeededHeaders},
    otlp::{Exporters, Provider},
    stats::Scope,
    stream_info::StreamInfo,
};
use crate::config::{
    listener::TrafficDirection,
    tracing::{CustomTag, CustomTagValue, Tracing},
};

pub use sampling::{Decision, Reason};

pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How a proxy tells its peer what the other's span is to be called.
pub(super) static DECORATOR_OPERATION: HeaderName =
    HeaderName::from_static("x-envoy-decorator-operation");

/// The tracer of one connection manager.
#[derive(Debug)]
pub struct Tracer {
    config: Arc<Tracing>,
    is_outbound: bool,
    provider: Provider,
    needed: NeededHeaders,
    stats: sampling::Stats,
}

/// The span of a stream, and the context that went on with its request.
#[derive(Clone, Debug)]
pub struct ActiveSpan {
    /// The trace; never zero.
    pub trace_id: u128,
    /// This span; never zero.
    pub span_id: u64,
    /// The caller's span, if there was one.
    pub parent_id: Option<u64>,
    /// Whether the span is exported.
    pub sampled: bool,
    /// `tracestate` as it came.
    pub tracestate: Option<HeaderValue>,
    /// The span of the request to the upstream, where that is a span of its own.
    pub upstream_id: Option<u64>,
    /// Forms of trace context that came in beside W3C's.
    forms: Forms,
    /// The span's name, where the peer gave one.
    operation: Option<HeaderValue>,
    /// Values of the headers that the route's custom tags read, in their order.
    route_values: Vec<Option<HeaderValue>>,
}

impl Tracer {
    /// The tracer that `config` asks for; none without a provider: trace headers then pass untouched.
    /// `scope` is the connection manager's (`http.<stat_prefix>`).
    #[must_use]
    pub fn new(
        config: &Arc<Tracing>,
        direction: TrafficDirection,
        exporters: &Exporters,
        scope: &Scope,
    ) -> Option<Self> {
        let provider = exporters.provider(config.provider.as_ref()?);
        let mut needed = NeededHeaders::default();
        for name in [&http::header::USER_AGENT, &http::header::HOST, &REQUEST_ID] {
            needed.add_request(name);
        }
        needed.add_grpc_status();
        add_tags(&mut needed, &config.custom_tags);
        if let Some(operation) = &config.operation {
            needed.add(operation);
        }
        Some(Self {
            config: Arc::clone(config),
            is_outbound: direction == TrafficDirection::Outbound,
            provider,
            needed,
            stats: sampling::Stats::new(scope),
        })
    }

    /// The headers that must still be there when [`Self::finish`] is called.
    #[must_use]
    pub fn needed(&self) -> &NeededHeaders {
        &self.needed
    }

    /// Starts the span of a stream whose route is chosen: reads trace context from the request's
    /// headers, decides whether to sample, and writes the context for the upstream into the headers.
    ///
    /// The decision is marked in `x-request-id`, so that all hops of a request decide alike.
    pub fn start(&self, headers: &mut HeaderMap, info: &mut StreamInfo) {
        let incoming = Incoming::read(headers);
        let route = info.route.as_ref().and_then(|route| route.tracing.as_ref());
        let decision = sampling::decide(headers, &self.config, route);
        self.stats.count(decision.reason);
        sampling::mark(headers, decision.reason);
        if let Some(id) = headers.get(&REQUEST_ID) {
            info.request_id = Some(id.clone());
        }
        let spawn_upstream = self.config.spawn_upstream_span;
        // As in Envoy's OpenTelemetry tracer: a caller that did not sample is not overruled.
        let sampled = decision.sampled && incoming.sampled.unwrap_or(true);
        let route_tags = route
            .filter(|_| sampled)
            .map_or(&[][..], |route| &route.custom_tags);
        let span = ActiveSpan {
            route_values: route_tags
                .iter()
                .map(|tag| tag_value(tag, headers))
                .collect(),
            trace_id: incoming
                .parent
                .map_or_else(random_trace_id, |(trace_id, _)| trace_id),
            span_id: random_span_id(),
            parent_id: incoming.parent.map(|(_, span_id)| span_id),
            sampled,
            tracestate: incoming.tracestate,
            upstream_id: spawn_upstream.then(random_span_id),
            forms: incoming.forms,
            operation: self.exchange_operation(headers, info),
        };
        propagation::write(&span, headers);
        info.trace = Some(Box::new(span));
    }

    /// Tells the server of an outbound request what its span is to be called; on the inbound side takes
    /// the name that the client gave.
    fn exchange_operation(
        &self,
        headers: &mut HeaderMap,
        info: &StreamInfo,
    ) -> Option<HeaderValue> {
        if !self.is_outbound {
            return headers
                .remove(&DECORATOR_OPERATION)
                .filter(|name| !name.is_empty());
        }
        let route = info.route.as_ref()?;
        if let Some(operation) = &route.propagated_operation {
            headers.insert(&DECORATOR_OPERATION, operation.clone());
        }
        None
    }

    /// The same with a response's head: the server that chose a name itself tells it the client.
    pub fn respond(&self, headers: &mut HeaderMap, info: &mut StreamInfo) {
        let Some(span) = &mut info.trace else { return };
        if self.is_outbound {
            if let Some(name) = headers.remove(&DECORATOR_OPERATION)
                && !name.is_empty()
            {
                span.operation = Some(name);
            }
        } else if span.operation.is_none()
            && let Some(route) = &info.route
            && let Some(operation) = &route.propagated_operation
        {
            headers.insert(&DECORATOR_OPERATION, operation.clone());
        }
    }

    /// Starts the span of a copy of the stream's request, and writes its context into the copy's headers.
    /// It is sampled as the stream's, unless `sampled` says otherwise.
    pub fn mirror(
        &self,
        stream: &StreamInfo,
        headers: &mut HeaderMap,
        sampled: Option<bool>,
    ) -> Option<Box<ActiveSpan>> {
        let stream = stream.trace.as_deref()?;
        let span = ActiveSpan {
            span_id: random_span_id(),
            parent_id: Some(stream.span_id),
            sampled: sampled.unwrap_or(stream.sampled),
            upstream_id: None,
            operation: Some(HeaderValue::from_static("mirror")),
            route_values: Vec::new(),
            ..stream.clone()
        };
        propagation::write(&span, headers);
        Some(Box::new(span))
    }

    /// Exports the span of a finished copy, if it is sampled.
    pub fn finish_mirror(&self, cx: &Context<'_>) {
        if let Some(span) = cx.info.trace.as_deref().filter(|span| span.sampled) {
            let recorder = record::Recorder {
                config: &self.config,
                route_tags: &[],
                // It is the proxy's own request, wherever the listener is.
                is_outbound: true,
                span,
                cx,
                end: SystemTime::now(),
            };
            self.provider.push(recorder.own_span());
        }
    }

    /// Exports the span of a finished stream, if it is sampled.
    pub fn finish(&self, cx: &Context<'_>) {
        let Some(span) = cx.info.trace.as_deref().filter(|span| span.sampled) else {
            return;
        };
        let route = cx
            .info
            .route
            .as_ref()
            .and_then(|route| route.tracing.as_ref());
        let route_tags = route.map_or(&[][..], |route| &route.custom_tags);
        let recorder = record::Recorder {
            config: &self.config,
            route_tags,
            is_outbound: self.is_outbound,
            span,
            cx,
            end: SystemTime::now(),
        };
        self.provider.push(recorder.own_span());
        if let Some(id) = span.upstream_id
            && let Some(upstream) = recorder.upstream_span(id)
        {
            self.provider.push(upstream);
        }
    }
}

/// Adds the request headers that custom tags read.
fn add_tags(needed: &mut NeededHeaders, tags: &[CustomTag]) {
    for tag in tags {
        if let CustomTagValue::RequestHeader { name, .. } = &tag.value {
            needed.add_request(name);
        }
    }
}

/// The value of the header that a custom tag reads.
fn tag_value(tag: &CustomTag, headers: &HeaderMap) -> Option<HeaderValue> {
    match &tag.value {
        CustomTagValue::RequestHeader { name, .. } => headers.get(name).cloned(),
        CustomTagValue::Literal(_) => None,
    }
}

fn random_trace_id() -> u128 {
    loop {
        match rand::random() {
            0 => {}
            id => return id,
        }
    }
}

fn random_span_id() -> u64 {
    loop {
        match rand::random() {
            0 => {}
            id => return id,
        }
    }
}

#[cfg(test)]
mod tests;
