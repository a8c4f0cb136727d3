//! The HTTP/2 half of the upstream, over the `h2` crate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use tokio::net::TcpStream;

use super::script::{Reset, summary};
use super::{Received, SCRIPT, State};
use crate::client::{header_map, pairs};

pub(super) async fn serve(stream: TcpStream, state: Arc<State>, ordinal: usize) {
    let Ok(mut connection) = server::Builder::new()
        .initial_window_size(1 << 20)
        .handshake::<_, Bytes>(stream)
        .await
    else {
        return;
    };
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let state = Arc::clone(&state);
        // An error is the peer's or the script's reset: the peer sees it, nothing to tell here.
        streams.spawn(async move { _ = answer(request, respond, &state, ordinal).await });
        while streams.try_join_next().is_some() {}
    }
}

async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &State,
    ordinal: usize,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let script = state.script(&head);
    let mut received = received(&head, &state.identity, ordinal);
    let place = state.record(received.clone());
    if !script.early {
        let mut data = Vec::new();
        while let Some(frame) = body.data().await {
            let frame = frame?;
            body.flow_control().release_capacity(frame.len())?;
            data.extend_from_slice(&frame);
        }
        received.body = summary(&data);
        received.trailers = body
            .trailers()
            .await?
            .as_ref()
            .map(pairs)
            .unwrap_or_default();
        state.complete(place, &received);
    }
    tokio::time::sleep(Duration::from_millis(script.delay_ms)).await;
    match script.reset {
        Some(Reset::BeforeHeaders) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        Some(Reset::Refused) => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        Some(Reset::MidBody) | None => {}
    }
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(script.status.unwrap_or(200))?;
    *response.headers_mut() = header_map(&script.headers)?;
    let frames = script.frames(&received);
    let headers_only = frames.is_empty() && script.trailers.is_empty();
    let mut stream = respond.send_response(response, headers_only)?;
    if headers_only {
        return Ok(());
    }
    let count = frames.len();
    for (index, frame) in frames.into_iter().enumerate() {
        if script.reset == Some(Reset::MidBody) && index >= count.div_ceil(2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(script.frame_delay_ms)).await;
        send(&mut stream, frame).await?;
    }
    if script.reset == Some(Reset::MidBody) {
        stream.send_reset(Reason::INTERNAL_ERROR);
    } else if script.trailers.is_empty() {
        stream.send_data(Bytes::new(), true)?;
    } else {
        stream.send_trailers(header_map(&script.trailers)?)?;
    }
    Ok(())
}

async fn send(stream: &mut h2::SendStream<Bytes>, mut frame: Bytes) -> Result<()> {
    while !frame.is_empty() {
        stream.reserve_capacity(frame.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = granted.context("the stream ended")??;
        stream.send_data(frame.split_to(granted.min(frame.len())), false)?;
    }
    Ok(())
}

fn received(head: &http::request::Parts, identity: &str, ordinal: usize) -> Received {
    let mut headers = pairs(&head.headers);
    headers.retain(|(name, _)| name != SCRIPT);
    Received {
        upstream: identity.to_owned(),
        protocol: "HTTP/2".to_owned(),
        method: head.method.to_string(),
        authority: head
            .uri
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default(),
        path: head
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        headers,
        connection: ordinal,
        ..Received::default()
    }
}
