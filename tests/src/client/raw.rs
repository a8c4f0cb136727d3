//! Raw bytes: for what no well-behaved client sends.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{Response, hello::client_hello};

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
    /// Sends these bytes, in hexadecimal.
    SendHex(String),
    /// Sends a ClientHello, or a part of one.
    ClientHello {
        /// The server's name.
        name: Option<String>,
        /// Protocols on offer.
        #[serde(default)]
        alpn: Vec<String>,
        /// Bytes of each record.
        record: Option<usize>,
        /// Only so many bytes from the start.
        first: Option<usize>,
        /// Without so many bytes from the start.
        #[serde(default)]
        skip: usize,
    },
    /// Waits, so that what was sent has arrived.
    PauseMs(u64),
    /// Ends the connection with RST.
    Reset,
    /// Reads until what was received contains this text.
    WaitFor(String),
    /// Reads until the peer closes.
    WaitClose,
    /// The same, and adds how it ended: `<closed>` or `<reset>`.
    End,
    /// Closes the sending half.
    Finish,
}

/// Runs the steps on a fresh connection; gives all bytes received.
pub async fn talk(address: SocketAddr, steps: &[Step], deadline: Duration) -> Result<Bytes> {
    talk_from(None, address, steps, deadline).await
}

/// The same from an address of this machine.
pub async fn talk_from(
    from: Option<IpAddr>,
    address: SocketAddr,
    steps: &[Step],
    deadline: Duration,
) -> Result<Bytes> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    let mut is_broken = false;
    for step in steps {
        let run = run(&mut stream, step, &mut received, &mut is_broken);
        let done = tokio::time::timeout(deadline, run).await;
        let said = || format!("{step:?} after {:?}", String::from_utf8_lossy(&received));
        done.with_context(said)?.with_context(said)?;
    }
    Ok(received.into())
}

async fn run(
    stream: &mut TcpStream,
    step: &Step,
    received: &mut Vec<u8>,
    is_broken: &mut bool,
) -> Result<()> {
    let mut send = async |bytes: &[u8]| {
        // A peer that answers and closes early may make it fail; what it answered still counts.
        if stream.write_all(bytes).await.is_err() {
            *is_broken = true;
        }
    };
    match step {
        Step::Send(text) => send(text.as_bytes()).await,
        Step::SendMany { text, times } => send(text.repeat(*times).as_bytes()).await,
        Step::SendHex(text) => send(&hex(text)?).await,
        Step::ClientHello {
            name,
            alpn,
            record,
            first,
            skip,
        } => {
            let hello = client_hello(name.as_deref(), alpn, record.unwrap_or(16384));
            let end = first.unwrap_or(hello.len()).min(hello.len());
            let part = hello.get(*skip..end).context("no such part")?;
            send(part).await;
        }
        Step::PauseMs(time) => tokio::time::sleep(Duration::from_millis(*time)).await,
        Step::Reset => stream.set_zero_linger()?,
        Step::Finish => stream.shutdown().await?,
        Step::WaitClose => while read(stream, received).await {},
        Step::End => {
            let end = loop {
                match stream.read_buf(received).await {
                    // The system tells of a reset only once, and it has told the writer.
                    Ok(0) if *is_broken => break "<reset>",
                    Ok(0) => break "<closed>",
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break "<reset>",
                    Err(error) => return Err(error.into()),
                }
            };
            received.extend_from_slice(end.as_bytes());
        }
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

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> = text.chars().filter(|one| !one.is_whitespace()).collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| Ok(u8::from_str_radix(&pair.iter().collect::<String>(), 16)?))
        .collect()
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
/// it, and the replies that follow.
pub fn parse(received: &[u8]) -> Response {
    let (mut first, mut rest) = parse_one(received);
    let mut interim = Vec::new();
    while (100..200).contains(&first.status) && rest.starts_with(b"HTTP/1.") {
        interim.push(first.status);
        (first, rest) = parse_one(rest);
    }
    first.interim = interim;
    while rest.starts_with(b"HTTP/1.") {
        let (next, after) = parse_one(rest);
        first.following.push(next);
        rest = after;
    }
    first
}

/// One message and the bytes after it. Without a content-length, all bytes are its body.
fn parse_one(received: &[u8]) -> (Response, &[u8]) {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, rest) = match end {
        Some(end) => (&received[..end], &received[end + 4..]),
        None => (received, &received[received.len()..]),
    };
    let head = String::from_utf8_lossy(head);
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
    let mut response = Response {
        status,
        version,
        headers,
        ..Response::default()
    };
    let length = match response
        .header("content-length")
        .and_then(|length| length.parse().ok())
    {
        _ if (100..200).contains(&status) => 0,
        Some(length) => rest.len().min(length),
        None => rest.len(),
    };
    let (body, rest) = rest.split_at(length);
    response.body = Bytes::copy_from_slice(body);
    (response, rest)
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
    fn replies_follow_each_other() {
        let reply = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 404 No\r\n\r\n");
        assert_eq!(reply.text(), "a");
        assert_eq!(reply.following[0].status, 404);
    }

    #[test]
    fn nothing_received_has_no_status() {
        assert_eq!(parse(b"").status, 0);
    }
}
