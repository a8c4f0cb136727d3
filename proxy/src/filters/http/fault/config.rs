//! The messages of the filter.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use outrigger_proto::envoy::extensions::filters::{
    common::fault::v3::{
        FaultDelay, FaultRateLimit,
        fault_delay::FaultDelaySecifier,
        fault_rate_limit::{FixedLimit, LimitType},
    },
    http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
};
use outrigger_proto::envoy::r#type::v3::FractionalPercent;
use outrigger_proto::google::protobuf::{Struct, UInt32Value, value::Kind};

use crate::{
    config::{
        fraction::Fraction,
        from_proto::{fraction, matcher},
        matcher::HeaderMatcher,
    },
    convert::Cx,
    filters::http::FilterConfig,
    no_effect,
};

/// What a client of gRPC and of HTTP reads of an abort.
pub(super) const BODY: &str = "fault filter abort";

/// `HTTPFault`
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests wait.
    pub delay: Option<(Delay, Fraction)>,
    /// Requests are answered.
    pub abort: Option<(Abort, Fraction)>,
    /// The answer's text.
    pub body: Bytes,
    /// Bodies of responses take their time: KiB per second.
    pub response_rate: Option<(Amount<u64>, Fraction)>,
    /// Only requests to this cluster.
    pub upstream_cluster: Option<Arc<str>>,
    /// Only requests that match all.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests of these nodes, if there are any.
    pub downstream_nodes: Vec<String>,
    /// So many at once; no limit by default.
    pub max_active_faults: Option<u32>,
    /// Count also by the caller's `x-envoy-downstream-service-cluster`.
    pub counts_by_cluster: bool,
    /// The mesh object that asks for the faults, where our control plane has said it:
    /// `filter_metadata["outrigger.dev"].origin`.
    pub origin: Option<Arc<str>>,
}

/// The same message.
pub type RouteConfig = Config;

/// Set here, or by a request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount<T> {
    /// Set here.
    Fixed(T),
    /// By a request header.
    Header,
}

/// `FaultDelay`
pub type Delay = Amount<Duration>;

/// `FaultAbort`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// `http_status`
    Http(StatusCode),
    /// `grpc_status`
    Grpc(u16),
    /// By a request header.
    Header,
}

impl FilterConfig for Config {
    type Proto = HttpFault;
    type RouteProto = HttpFault;
    type RouteConfig = Self;

    fn from_proto(cx: &Cx<'_>, proto: HttpFault) -> Option<Self> {
        cx.converts::<HttpFault>();
        let HttpFault {
            delay: delay_proto,
            abort: abort_proto,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
            filter_metadata,
        } = proto;
        no_effect!(
            cx,
            HttpFault,
            "there is no runtime to read keys from",
            [
                delay_percent_runtime,
                abort_percent_runtime,
                delay_duration_runtime,
                abort_http_status_runtime,
                max_active_faults_runtime,
                response_rate_limit_percent_runtime,
                abort_grpc_status_runtime
            ]
        );
        cx.partly::<HttpFault>("filter_metadata", "outrigger.dev {origin}");
        let origin =
            filter_metadata.and_then(|fields| origin(&cx.field("filter_metadata"), fields));
        let headers_cx = cx.field("headers");
        let (abort, body) = match abort_proto {
            Some(proto) => abort(&cx.field("abort"), proto)?,
            None => (None, Bytes::new()),
        };
        Some(Self {
            delay: delay_proto.and_then(|proto| delay(&cx.field("delay"), proto)),
            abort,
            body,
            response_rate: response_rate_limit
                .and_then(|proto| rate(&cx.field("response_rate_limit"), proto)),
            upstream_cluster: (!upstream_cluster.is_empty()).then(|| upstream_cluster.into()),
            headers: headers
                .into_iter()
                .enumerate()
                .filter_map(|(index, proto)| {
                    matcher::header_matcher(&headers_cx.index(index), proto)
                })
                .collect(),
            downstream_nodes,
            max_active_faults: max_active_faults.map(|UInt32Value { value }| value),
            counts_by_cluster: !disable_downstream_cluster_stats,
            origin,
        })
    }

    fn route_from_proto(cx: &Cx<'_>, proto: HttpFault) -> Option<Self> {
        Self::from_proto(cx, proto)
    }
}

/// Envoy makes the fields dynamic metadata of the stream, which we do not have: all but our own are refused.
fn origin(cx: &Cx<'_>, Struct { fields }: Struct) -> Option<Arc<str>> {
    let mut origin = None;
    for (key, value) in fields {
        let cx = cx.key(&key);
        let own = match value.kind {
            Some(Kind::StructValue(own)) if key == "outrigger.dev" => own,
            _ => {
                cx.error("not supported");
                continue;
            }
        };
        for (key, value) in own.fields {
            match value.kind {
                Some(Kind::StringValue(text)) if key == "origin" => origin = Some(text.into()),
                _ => cx.key(&key).error("not supported"),
            }
        }
    }
    origin
}

/// Of how many requests; none where it is not set, as in Envoy.
fn percentage(cx: &Cx<'_>, proto: Option<FractionalPercent>) -> Fraction {
    proto
        .and_then(|proto| fraction::fraction(&cx.field("percentage"), proto))
        .unwrap_or(Fraction {
            numerator: 0,
            denominator: 100,
        })
}

fn delay(cx: &Cx<'_>, proto: FaultDelay) -> Option<(Delay, Fraction)> {
    cx.converts::<FaultDelay>();
    let FaultDelay {
        percentage: percent,
        fault_delay_secifier,
    } = proto;
    let percentage = percentage(cx, percent);
    let delay = match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(delay)) => {
            let cx = cx.field("fixed_delay");
            let delay = cx.duration(delay)?;
            if delay.is_zero() {
                cx.error("value must be greater than 0s");
            }
            Amount::Fixed(delay)
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => Amount::Header,
        None => {
            cx.field("fault_delay_secifier").error("value is required");
            return None;
        }
    };
    Some((delay, percentage))
}

fn abort(cx: &Cx<'_>, proto: FaultAbort) -> Option<(Option<(Abort, Fraction)>, Bytes)> {
    cx.converts::<FaultAbort>();
    let FaultAbort {
        percentage: percent,
        response_body,
        error_type,
    } = proto;
    let percentage = percentage(cx, percent);
    let abort = match error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(status)
                .ok()
                .filter(|status| (200..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok());
            if status.is_none() {
                cx.field("http_status")
                    .error("value must be inside range [200, 600)");
            }
            Abort::Http(status?)
        }
        Some(ErrorType::GrpcStatus(status)) => match u16::try_from(status) {
            Ok(status) => Abort::Grpc(status),
            Err(_) => {
                cx.field("grpc_status").error("is not a gRPC status");
                return None;
            }
        },
        Some(ErrorType::HeaderAbort(_)) => Abort::Header,
        None => {
            cx.field("error_type").error("value is required");
            return None;
        }
    };
    let body = if response_body.is_empty() {
        Bytes::from_static(BODY.as_bytes())
    } else {
        response_body.into()
    };
    Some((Some((abort, percentage)), body))
}

fn rate(cx: &Cx<'_>, proto: FaultRateLimit) -> Option<(Amount<u64>, Fraction)> {
    cx.converts::<FaultRateLimit>();
    let FaultRateLimit {
        percentage: percent,
        limit_type,
    } = proto;
    let percentage = percentage(cx, percent);
    let limit = match limit_type {
        Some(LimitType::FixedLimit(FixedLimit { limit_kbps })) => {
            cx.converts::<FixedLimit>();
            if limit_kbps == 0 {
                cx.field("fixed_limit")
                    .field("limit_kbps")
                    .error("value must be greater than or equal to 1");
            }
            Amount::Fixed(limit_kbps)
        }
        Some(LimitType::HeaderLimit(_)) => Amount::Header,
        None => {
            cx.field("limit_type").error("value is required");
            return None;
        }
    };
    Some((limit, percentage))
}
