//! HTTP/1.1 over hyper's client connection.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{DEADLINE, Request, Response, header_map, pairs};

/// One connection; dropping it closes the socket.
#[derive(Debug)]
pub struct Http1 {
    sender: SendRequest<BoxBody<Bytes, Infallible>>,
    connection: JoinHandle<()>,
}

impl Http1 {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(false)
            .handshake(TokioIo::new(stream))
            .await?;
        // An error of the connection is also an error of the request that runs on it.
        let connection = tokio::spawn(async { _ = connection.await });
        Ok(Self { sender, connection })
    }

    /// Sends one request and reads its reply to the end.
    pub async fn send(&mut self, request: Request) -> Result<Response> {
        let message = message(&request)?;
        let exchange = async {
            if let Err(error) = self.sender.ready().await {
                return failed(&error);
            }
            match self.sender.send_request(message).await {
                Ok(reply) => read(reply).await,
                Err(error) => failed(&error),
            }
        };
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .with_context(|| format!("{request:?}"))
    }

    /// Whether the peer has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn message(request: &Request) -> Result<http::Request<BoxBody<Bytes, Infallible>>> {
    let mut message = http::Request::new(body(request)?);
    *message.method_mut() = request.method.parse()?;
    *message.uri_mut() = request
        .path
        .parse()
        .with_context(|| format!("{:?}", request.path))?;
    *message.headers_mut() = header_map(&request.headers)?;
    message
        .headers_mut()
        .insert(http::header::HOST, request.authority.parse()?);
    if !request.trailers.is_empty() {
        let names: Vec<&str> = request
            .trailers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        message
            .headers_mut()
            .insert(http::header::TRAILER, names.join(", ").parse()?);
    }
    Ok(message)
}

fn body(request: &Request) -> Result<BoxBody<Bytes, Infallible>> {
    let Some(whole) = &request.body else {
        return Ok(Empty::new().boxed());
    };
    if request.chunks == 0 && request.trailers.is_empty() {
        return Ok(Full::new(whole.clone()).boxed());
    }
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = request
        .frames()
        .into_iter()
        .map(|data| Ok(Frame::data(data)))
        .collect();
    if !request.trailers.is_empty() {
        frames.push(Ok(Frame::trailers(header_map(&request.trailers)?)));
    }
    Ok(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))))
}

async fn read(reply: http::Response<Incoming>) -> Response {
    let (head, mut body) = reply.into_parts();
    let mut response = Response {
        status: head.status.as_u16(),
        version: format!("{:?}", head.version),
        headers: pairs(&head.headers),
        ..Response::default()
    };
    let mut data = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(frame)) => {
                response.trailers = frame.trailers_ref().map(pairs).unwrap_or_default();
            }
            Err(error) => {
                response.error = failed(&error).error;
                break;
            }
        }
    }
    response.body = data.into();
    response
}

/// hyper's texts differ with timing (reset, end of file, broken pipe); a test may only rely on
/// "the connection was closed before the message was whole".
fn failed(error: &hyper::Error) -> Response {
    let text = if error.is_parse() {
        format!("unreadable: {error}")
    } else {
        "closed".to_owned()
    };
    Response {
        error: Some(text),
        ..Response::default()
    }
}
