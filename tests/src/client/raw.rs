//! Raw bytes: for what no well-behaved client sends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Response;

/// One step of a raw conversation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Sends these bytes.
    Send(String),
    /// Sends one text many times, for large messages.
    SendMany {
        /// The text.
        text: String,
        /// How often.
        times: usize,
    },
    /// Reads until what was received contains this text.
    WaitFor(String),
    /// Reads until the peer closes.
    WaitClose,
    /// Closes the sending half.
    Finish,
}

/// Runs the steps on a fresh connection; gives all bytes received.
pub async fn talk(address: SocketAddr, steps: &[Step], deadline: Duration) -> Result<Bytes> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    for step in steps {
        let done = tokio::time::timeout(deadline, run(&mut stream, step, &mut received)).await;
        let said = || format!("{step:?} after {:?}", String::from_utf8_lossy(&received));
        done.with_context(said)?.with_context(said)?;
    }
    Ok(received.into())
}

async fn run(stream: &mut TcpStream, step: &Step, received: &mut Vec<u8>) -> Result<()> {
    match step {
        Step::Send(text) => send(stream, text.as_bytes()).await,
        Step::SendMany { text, times } => send(stream, text.repeat(*times).as_bytes()).await,
        Step::Finish => stream.shutdown().await?,
        Step::WaitClose => while read(stream, received).await {},
        Step::WaitFor(text) => {
            while !contains(received, text.as_bytes()) {
                if !read(stream, received).await {
                    bail!("closed without {text:?}");
                }
            }
        }
    }
    Ok(())
}

/// A peer that answers and closes early may make a send fail; what it answered still counts.
async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    _ = stream.write_all(bytes).await;
}

/// False at the end of the connection, however it ended.
async fn read(stream: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    stream.read_buf(received).await.is_ok_and(|read| read > 0)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len().max(1))
        .any(|window| window == needle)
}

/// Splits what a raw HTTP/1 conversation gave into its first final reply, the interim ones before
/// it, and the bytes after its head.
pub fn parse(received: &[u8]) -> Response {
    let mut rest = received;
    let mut interim = Vec::new();
    loop {
        let mut response = parse_one(rest);
        let more = response.body.starts_with(b"HTTP/1.");
        if !(100..200).contains(&response.status) || !more {
            response.interim = interim;
            return response;
        }
        interim.push(response.status);
        rest = &rest[rest.len() - response.body.len()..];
    }
}

fn parse_one(received: &[u8]) -> Response {
    let text = String::from_utf8_lossy(received);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = first.next().unwrap_or_default().to_owned();
    let status = first
        .next()
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = Bytes::copy_from_slice(body.as_bytes());
    Response {
        status,
        version,
        headers,
        body,
        ..Response::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_reply_is_split_into_head_and_body() {
        let reply = parse(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nbody");
        assert_eq!(reply.status, 400);
        assert_eq!(reply.header("connection"), Some("close"));
        assert_eq!(reply.text(), "body");
    }

    #[test]
    fn interim_replies_are_not_the_reply() {
        let reply = parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\na: b\r\n\r\nx");
        assert_eq!(
            (reply.status, reply.interim.as_slice()),
            (201, [100].as_slice())
        );
    }

    #[test]
    fn nothing_received_has_no_status() {
        assert_eq!(parse(b"").status, 0);
    }
}
