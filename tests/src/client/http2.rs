//! HTTP/2 with prior knowledge over the `h2` crate, so that resets and frames stay visible.

use std::future::poll_fn;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{DEADLINE, Request, Response, header_map, pairs};

/// One connection; dropping it closes the socket.
#[derive(Debug)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Option<String>>,
}

impl Http2 {
    /// Connects and sends the preface.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = client::Builder::new()
            .initial_window_size(1 << 20)
            .handshake(stream)
            .await?;
        let connection =
            tokio::spawn(async { connection.await.err().map(|error| describe(&error)) });
        Ok(Self { sender, connection })
    }

    /// Sends one request and reads its reply to the end.
    pub async fn send(&mut self, request: Request) -> Result<Response> {
        let head = head(&request)?;
        let trailers = header_map(&request.trailers)?;
        let exchange = async {
            let ended = request.body.is_none() && trailers.is_empty();
            let sent = match self.sender.clone().ready().await {
                Ok(mut sender) => sender.send_request(head, ended),
                Err(error) => Err(error),
            };
            let (mut reply, stream) = match sent {
                Ok(sent) => sent,
                Err(error) => return failed(&error),
            };
            let upload = async {
                // A failed upload shows in the reply too: a reset, or an early answer.
                if !ended {
                    _ = upload(stream, request.frames(), trailers).await;
                }
            };
            let download = async {
                let mut interim = Vec::new();
                while let Some(Ok(head)) = poll_fn(|cx| reply.poll_informational(cx)).await {
                    interim.push(head.status().as_u16());
                }
                let reply = match reply.await {
                    Ok(reply) => read(reply).await,
                    Err(error) => failed(&error),
                };
                Response { interim, ..reply }
            };
            tokio::join!(upload, download).1
        };
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .with_context(|| format!("{request:?}"))
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn head(request: &Request) -> Result<http::Request<()>> {
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(request.authority.as_str())
        .path_and_query(request.path.as_str())
        .build()
        .with_context(|| format!("{} {}", request.authority, request.path))?;
    let mut head = http::Request::new(());
    *head.method_mut() = request.method.parse()?;
    *head.uri_mut() = uri;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = header_map(&request.headers)?;
    Ok(head)
}

/// Sends frames as the peer's window allows, then trailers or an end of stream.
pub(crate) async fn upload(
    mut stream: SendStream<Bytes>,
    frames: Vec<Bytes>,
    trailers: http::HeaderMap,
) -> Result<()> {
    for mut frame in frames {
        while !frame.is_empty() {
            stream.reserve_capacity(frame.len());
            let granted = poll_fn(|cx| stream.poll_capacity(cx)).await;
            let granted = granted.context("the stream ended")??;
            ensure!(granted > 0, "no capacity");
            stream.send_data(frame.split_to(granted.min(frame.len())), false)?;
        }
    }
    if trailers.is_empty() {
        stream.send_data(Bytes::new(), true)?;
    } else {
        stream.send_trailers(trailers)?;
    }
    Ok(())
}

async fn read(reply: http::Response<RecvStream>) -> Response {
    let (head, mut body) = reply.into_parts();
    let mut response = Response {
        status: head.status.as_u16(),
        version: "HTTP/2".to_owned(),
        headers: pairs(&head.headers),
        ..Response::default()
    };
    let mut data = Vec::new();
    while let Some(frame) = body.data().await {
        match frame {
            Ok(bytes) => {
                // Fails only when the stream is gone, which the next frame tells.
                _ = body.flow_control().release_capacity(bytes.len());
                data.extend_from_slice(&bytes);
            }
            Err(error) => {
                response.error = failed(&error).error;
                break;
            }
        }
    }
    response.body = data.into();
    match body.trailers().await {
        Ok(trailers) => response.trailers = trailers.as_ref().map(pairs).unwrap_or_default(),
        Err(error) => response.error = failed(&error).error,
    }
    response
}

fn failed(error: &h2::Error) -> Response {
    Response {
        error: Some(describe(error)),
        ..Response::default()
    }
}

fn describe(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_go_away() => format!("goaway {reason:?}"),
        Some(reason) => format!("reset {reason:?}"),
        None => "closed".to_owned(),
    }
}
