//! Sends one batch to one host of the provider's cluster.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    config::{
        cluster::UpstreamProtocol,
        tracing::{Exporter, OpenTelemetry},
    },
    upstream::Cluster,
};

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Trying again may help.
    #[error("{0}")]
    Temporary(String),
    /// It will not.
    #[error("{0}")]
    Permanent(String),
}

/// A connection that is kept between batches.
#[derive(Clone, Debug)]
pub(super) enum Client {
    Grpc(SocketAddr, TraceServiceClient<Channel>),
    Http(SocketAddr, legacy::Client<HttpConnector, Full<Bytes>>),
}

impl Client {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Grpc(address, _) | Self::Http(address, _) => *address,
        }
    }

    /// The kept client if its host is still the cluster's, else a new one.
    pub(super) fn find(
        kept: Option<Self>,
        config: &OpenTelemetry,
        cluster: Option<&Arc<Cluster>>,
    ) -> Result<Self, Failure> {
        let name = config.exporter.cluster();
        let cluster =
            cluster.ok_or_else(|| Failure::Temporary(format!("cluster '{name}' is not there")))?;
        let hosts = cluster.hosts.load();
        if let Some(kept) = kept
            && hosts
                .hosts
                .iter()
                .any(|host| host.address == kept.address())
        {
            return Ok(kept);
        }
        let address = hosts
            .any(rand::random(), rand::random())
            .ok_or_else(|| Failure::Temporary(format!("cluster '{name}' has no healthy host")))?
            .address;
        match &config.exporter {
            Exporter::Grpc {
                cluster,
                authority,
                timeout,
            } => grpc(address, authority.as_deref().unwrap_or(cluster), *timeout),
            Exporter::Http { .. } => {
                let is_http2 = matches!(cluster.config.protocol, UpstreamProtocol::Http2(_));
                let client = legacy::Client::builder(TokioExecutor::new())
                    .http2_only(is_http2)
                    .build_http();
                Ok(Self::Http(address, client))
            }
        }
    }

    /// Sends a batch within the configured timeout.
    pub(super) async fn send(
        &self,
        config: &OpenTelemetry,
        spans: Vec<Span>,
    ) -> Result<(), Failure> {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![resource_spans(config, spans)],
        };
        let timeout = config.exporter.timeout();
        let sent = async {
            match (self, &config.exporter) {
                (Self::Grpc(_, client), _) => {
                    let answer = client.clone().export(request).await;
                    answer.map(drop).map_err(|status| from_status(&status))
                }
                (Self::Http(address, client), exporter) => {
                    let request = post(*address, exporter, request.encode_to_vec())?;
                    let answer = client.request(request).await;
                    let answer = answer.map_err(|error| Failure::Temporary(chain(&error)))?;
                    from_http(answer.status())
                }
            }
        };
        match timeout.is_zero() {
            true => sent.await,
            false => tokio::time::timeout(timeout, sent)
                .await
                .unwrap_or_else(|_| {
                    Err(Failure::Temporary(format!("no answer within {timeout:?}")))
                }),
        }
    }
}

impl Exporter {
    /// The cluster that spans go through.
    pub(super) fn cluster(&self) -> &Arc<str> {
        match self {
            Self::Grpc { cluster, .. } | Self::Http { cluster, .. } => cluster,
        }
    }

    fn timeout(&self) -> Duration {
        match self {
            Self::Grpc { timeout, .. } | Self::Http { timeout, .. } => *timeout,
        }
    }
}

fn grpc(address: SocketAddr, authority: &str, timeout: Duration) -> Result<Client, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::Permanent(error.to_string()))?;
    // A cluster's name need not be an authority; then the address is.
    let endpoint = match Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query("/")
        .build()
    {
        Ok(origin) => endpoint.origin(origin),
        Err(_) => endpoint,
    };
    let endpoint = match timeout.is_zero() {
        true => endpoint,
        false => endpoint.connect_timeout(timeout),
    };
    Ok(Client::Grpc(
        address,
        TraceServiceClient::new(endpoint.connect_lazy()),
    ))
}

fn post(
    address: SocketAddr,
    exporter: &Exporter,
    body: Vec<u8>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let Exporter::Http {
        authority,
        path,
        headers,
        ..
    } = exporter
    else {
        return Err(Failure::Permanent("not an HTTP exporter".to_owned()));
    };
    let mut request = Request::post(format!("http://{address}{path}"))
        .header(header::HOST, &**authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf");
    for (name, value) in headers {
        request = request.header(&**name, &**value);
    }
    request
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::Permanent(error.to_string()))
}

fn from_status(status: &tonic::Status) -> Failure {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unknown
        | Code::ResourceExhausted => Failure::Temporary(text),
        _ => Failure::Permanent(text),
    }
}

fn from_http(status: StatusCode) -> Result<(), Failure> {
    match status.as_u16() {
        200..=299 => Ok(()),
        429 | 502 | 503 | 504 => Err(Failure::Temporary(status.to_string())),
        _ => Err(Failure::Permanent(status.to_string())),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn resource_spans(config: &OpenTelemetry, spans: Vec<Span>) -> ResourceSpans {
    let attribute = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    };
    ResourceSpans {
        resource: Some(Resource {
            attributes: vec![
                attribute("service.name", &config.service_name),
                attribute("telemetry.sdk.name", "outrigger"),
                attribute("telemetry.sdk.language", "rust"),
                attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
            ],
            ..Resource::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "outrigger-proxy".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            }),
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    }
}
