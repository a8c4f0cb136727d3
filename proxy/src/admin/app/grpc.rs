//! `grpc.health.v1.Health/Check` of the application.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header, uri::PathAndQuery};
use http_body_util::Full;

use super::{Asked, dial::Dialer, fetch};
use crate::upstream::health::message;

/// A health response is a few bytes.
const LARGEST: usize = 1024;
const UNIMPLEMENTED: &str = "12";

/// Asks whether `service` is served at that port.
pub(super) async fn check(
    dialer: &Dialer,
    port: u16,
    service: &str,
    asked: Asked<'_>,
) -> Result<(), String> {
    let mut request = Request::new(Full::new(message::request(service)));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(agent) = asked.header("user-agent") {
        headers.insert(header::USER_AGENT, agent.clone());
    }
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let stream = dialer.connect(port).await?;
    let authority = asked.authority(port);
    let asking = fetch::over_http2(stream, request, &authority, "http", &path, LARGEST);
    let answer = Box::pin(asking).await?;
    if answer.status != http::StatusCode::OK {
        return Err(format!(
            "answered with HTTP status {}",
            answer.status.as_u16()
        ));
    }
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.headers);
    match status(trailers) {
        Some("0") => {}
        Some(UNIMPLEMENTED) => {
            return Err("this server does not implement the grpc health protocol \
                        (grpc.health.v1.Health)"
                .to_owned());
        }
        Some(code) => {
            let message = trailers.get("grpc-message");
            let message = message.and_then(|text| text.to_str().ok());
            return Err(format!(
                "grpc status {code}: {}",
                message.unwrap_or_default()
            ));
        }
        None => return Err("answered without a grpc-status".to_owned()),
    }
    serving(&answer.body)
}

fn status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status")?.to_str().ok()
}

fn serving(body: &Bytes) -> Result<(), String> {
    let word = match message::status(body) {
        Some(message::SERVING) => return Ok(()),
        Some(0) => "UNKNOWN".to_owned(),
        Some(2) => "NOT_SERVING".to_owned(),
        Some(3) => "SERVICE_UNKNOWN".to_owned(),
        Some(other) => other.to_string(),
        None => return Err("answered with no health response".to_owned()),
    };
    Err(format!("service unhealthy (responded with \"{word}\")"))
}
