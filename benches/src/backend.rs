//! The backend behind the proxies: as cheap as can be, since it shares its core with the load.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::server::SendResponse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{BODY, Protocol};

/// Starts a backend on a thread of its own; it lives as long as the process.
pub fn start(protocol: Protocol) -> Result<SocketAddr> {
    serve(move |stream| async move {
        match protocol {
            Protocol::Http1 => serve_http1(stream, Duration::ZERO).await,
            Protocol::Http2 => serve_http2(stream).await,
        }
    })
}

/// Starts an HTTP/1 backend that takes this long for each answer, however many it is asked for.
pub fn start_slow(delay: Duration) -> Result<SocketAddr> {
    serve(move |stream| serve_http1(stream, delay))
}

pub(crate) fn serve<F: Future<Output = Result<()>> + Send + 'static>(
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("backend".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a nonblocking listener");
                while let Ok((stream, _)) = listener.accept().await {
                    _ = stream.set_nodelay(true);
                    let connection = answer(stream);
                    // A connection ends with an error when its proxy ends: nothing to tell.
                    tokio::spawn(async move { _ = connection.await });
                }
            });
        })?;
    Ok(address)
}

/// Answers every blank line with the same reply: the requests here have no bodies.
async fn serve_http1(mut stream: TcpStream, delay: Duration) -> Result<()> {
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let heads = buffer
            .windows(4)
            .filter(|window| window == b"\r\n\r\n")
            .count();
        if heads > 0 {
            // Proxies do not pipeline: what was read ends with the last head.
            buffer.clear();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            stream.write_all(reply.repeat(heads).as_bytes()).await?;
        }
    }
}

async fn serve_http2(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .max_concurrent_streams(1000)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::spawn(async move { _ = answer(request.into_body(), respond).await });
    }
    Ok(())
}

/// Like a gRPC server: head, one message, trailers.
async fn answer(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(BODY.as_bytes()), false)?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers).context("trailers")
}
