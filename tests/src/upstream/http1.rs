//! The HTTP/1 half of the upstream, over hyper's server connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::script::{Reset, Script, summary};
use super::{Received, SCRIPT, State};
use crate::client::{header_map, pairs};

type Body = BoxBody<Bytes, anyhow::Error>;

pub(super) async fn serve(stream: TcpStream, state: Arc<State>, ordinal: usize) {
    let service = service_fn(|request| answer(request, &state, ordinal));
    // Scripted resets and clients that leave end the connection with an error: nothing to tell.
    _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: http::Request<Incoming>,
    state: &State,
    ordinal: usize,
) -> Result<http::Response<Body>> {
    let (head, mut body) = request.into_parts();
    let script = state.script(&head);
    let mut received = received(&head, &state.identity, ordinal);
    let place = state.record(received.clone());
    if !script.early {
        let mut data = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => {
                    received.trailers = frame.trailers_ref().map(pairs).unwrap_or_default();
                }
            }
        }
        received.body = summary(&data);
        state.complete(place, &received);
    }
    tokio::time::sleep(Duration::from_millis(script.delay_ms)).await;
    if script.reset == Some(Reset::BeforeHeaders) {
        bail!("scripted");
    }
    let mut response = http::Response::new(response_body(&script, &received)?);
    *response.status_mut() = http::StatusCode::from_u16(script.status.unwrap_or(200))?;
    *response.headers_mut() = header_map(&script.headers)?;
    Ok(response)
}

fn response_body(script: &Script, received: &Received) -> Result<Body> {
    let frames = script.frames(received);
    let streamed = script.chunks > 0 || script.frame_delay_ms > 0 || script.reset.is_some();
    if !streamed && script.trailers.is_empty() {
        let whole = Full::new(frames.concat().into());
        return Ok(whole.map_err(|error: Infallible| match error {}).boxed());
    }
    let count = frames.len();
    let kept = if script.reset == Some(Reset::MidBody) {
        count.div_ceil(2)
    } else {
        count
    };
    let mut items: Vec<Result<Frame<Bytes>>> = frames
        .into_iter()
        .take(kept)
        .map(|data| Ok(Frame::data(data)))
        .collect();
    if script.reset == Some(Reset::MidBody) {
        items.push(Err(anyhow::anyhow!("scripted")));
    } else if !script.trailers.is_empty() {
        items.push(Ok(Frame::trailers(header_map(&script.trailers)?)));
    }
    let delay = Duration::from_millis(script.frame_delay_ms);
    let stream = tokio_stream::iter(items).then(move |item| async move {
        // Lets hyper write what it has, so that frames arrive apart.
        tokio::time::sleep(delay.max(Duration::from_millis(1))).await;
        item
    });
    Ok(BodyExt::boxed(StreamBody::new(stream)))
}

fn received(head: &http::request::Parts, identity: &str, ordinal: usize) -> Received {
    let header = |name| {
        let value = head
            .headers
            .get(name)
            .map(|value: &http::HeaderValue| value.as_bytes());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    let mut headers = pairs(&head.headers);
    headers.retain(|(name, _)| name != SCRIPT && name != "host");
    Received {
        upstream: identity.to_owned(),
        protocol: format!("{:?}", head.version),
        method: head.method.to_string(),
        authority: header("host"),
        path: head.uri.to_string(),
        headers,
        connection: ordinal,
        ..Received::default()
    }
}
