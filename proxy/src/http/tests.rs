//! Whole connections over real sockets: what is refused, how streams end, how connections drain.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::worker::{Phase, testing::TestWorker};

const LIMIT: Duration = Duration::from_secs(10);

async fn connect(address: SocketAddr) -> TcpStream {
    let attempt = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(LIMIT, attempt).await.unwrap()
}

/// Reads one response with its `content-length` body; empty at the end of the connection.
async fn read_response(stream: &mut TcpStream) -> String {
    let read = async {
        let mut text = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.unwrap_or(0);
            text.extend_from_slice(&chunk[..count]);
            let so_far = String::from_utf8_lossy(&text).into_owned();
            let length = so_far
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse::<usize>().ok());
            let body = so_far.split_once("\r\n\r\n").map(|(_, body)| body.len());
            let is_whole = matches!((body, length), (Some(body), Some(length)) if body >= length);
            if count == 0 || is_whole {
                return so_far;
            }
        }
    };
    timeout(LIMIT, read).await.unwrap()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 64];
    matches!(
        timeout(LIMIT, stream.read(&mut rest)).await.unwrap(),
        Ok(0) | Err(_)
    )
}

async fn exchange(address: SocketAddr, request: &[u8]) -> (TcpStream, String) {
    let mut stream = connect(address).await;
    stream.write_all(request).await.unwrap();
    let response = read_response(&mut stream).await;
    (stream, response)
}

/// What Envoy 1.40 answers to these bytes, or what we do on purpose instead.
#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_closed() {
    let worker = TestWorker::start(&TestWorker::yaml("", None));
    let cases: &[(&str, u16)] = &[
        ("GET /direct HTTP/1.1\r\n\r\n", 400),
        ("GET /direct HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /direct HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /direct HTTP/1.0\r\nHost: a\r\n\r\n", 426),
        ("GET /direct HTTP/1.2\r\nHost: a\r\n\r\n", 426),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            400,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            501,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            501,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            400,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            400,
        ),
        (
            "POST /direct HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
            400,
        ),
        ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /direct#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET ftp://a/direct HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 404),
        (
            "GET /direct HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            403,
        ),
        ("GET /direct HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
        ("GET /direct HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", 400),
        ("GET /direct HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
        ("FOO /direct HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "GET /direct HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for\r\n\r\n",
            400,
        ),
        (
            "GET /direct HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n",
            400,
        ),
        ("\u{16}\u{3}\u{1}\r\n\r\n", 400),
    ];
    for (request, status) in cases {
        let (mut stream, response) = exchange(worker.address(), request.as_bytes()).await;
        let expected = format!(
            "HTTP/1.{}",
            if request.contains("HTTP/1.0") { 0 } else { 1 }
        );
        assert!(
            response.starts_with(&format!("{expected} {status} ")),
            "{request:?}: {response}"
        );
        assert!(
            response.contains("connection: close"),
            "{request:?}: {response}"
        );
        assert!(
            response.contains("server: envoy"),
            "{request:?}: {response}"
        );
        assert!(is_closed(&mut stream).await, "{request:?}");
    }
    let large = format!(
        "GET /direct HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let (_, response) = exchange(worker.address(), large.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
    let many = format!(
        "GET /direct HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: y\r\n".repeat(110)
    );
    let (_, response) = exchange(worker.address(), many.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
}

#[tokio::test]
async fn good_requests_keep_the_connection() {
    let worker = TestWorker::start(&TestWorker::yaml("", None));
    let mut stream = connect(worker.address()).await;
    let requests: &[&str] = &[
        "GET /direct HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /direct HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/direct HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /direct?x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET /direct HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x\r\nX: y\r\n\r\n",
    ];
    for request in requests {
        stream.write_all(request.as_bytes()).await.unwrap();
        let response = read_response(&mut stream).await;
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\n"),
            "{request:?}: {response}"
        );
        assert!(response.ends_with("\r\n\r\nhello"), "{response}");
        assert!(!response.contains("connection:"), "{response}");
    }
    // Several at once, after which the codec's own words must not be mistaken for ours.
    let two = "GET /direct HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    stream.write_all(two.as_bytes()).await.unwrap();
    let mut both = read_response(&mut stream).await;
    if both.matches("hello").count() < 2 {
        both += &read_response(&mut stream).await;
    }
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let response = read_response(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    assert!(response.ends_with("Bad Request"), "{response}");
}

#[tokio::test]
async fn timeouts_are_answered() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = silent.local_addr().unwrap();
    let yaml = |hcm: &str| TestWorker::yaml(hcm, Some(upstream));
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab";
    let head = "GET / HTTP";
    for (setting, request, status, body) in [
        ("stream_idle_timeout: 0.05s", get, 504, "stream timeout"),
        ("stream_idle_timeout: 0.05s", post, 408, "stream timeout"),
        ("stream_idle_timeout: 0.05s", head, 408, "stream timeout"),
        ("request_timeout: 0.05s", post, 408, "request timeout"),
        ("request_timeout: 0.05s", head, 408, "request timeout"),
        (
            "request_headers_timeout: 0.05s",
            head,
            408,
            "request header timeout",
        ),
        (
            "common_http_protocol_options: {max_stream_duration: 0.05s}",
            get,
            504,
            "downstream duration timeout",
        ),
    ] {
        let worker = TestWorker::start(&yaml(&format!("          {setting}")));
        let (_, response) = exchange(worker.address(), request.as_bytes()).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{setting}: {response}"
        );
        assert!(response.ends_with(body), "{setting}: {response}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_silence() {
    let setting = "          common_http_protocol_options: {idle_timeout: 0.05s}";
    let worker = TestWorker::start(&TestWorker::yaml(setting, None));
    let mut fresh = connect(worker.address()).await;
    assert!(is_closed(&mut fresh).await);
    let (mut used, response) =
        exchange(worker.address(), b"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(response.ends_with("hello"), "{response}");
    assert!(is_closed(&mut used).await);
    assert_eq!(worker.stat("http.t.downstream_cx_idle_timeout"), 2);
}

#[tokio::test]
async fn the_last_allowed_request_closes() {
    let setting = "          common_http_protocol_options: {max_requests_per_connection: 2}";
    let worker = TestWorker::start(&TestWorker::yaml(setting, None));
    let mut stream = connect(worker.address()).await;
    for is_last in [false, true] {
        stream
            .write_all(b"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let response = read_response(&mut stream).await;
        assert_eq!(
            response.contains("connection: close"),
            is_last,
            "{response}"
        );
    }
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn draining_ends_http1_after_the_next_response() {
    let worker = TestWorker::start(&TestWorker::yaml("", None));
    let address = worker.address();
    let (mut stream, response) =
        exchange(address, b"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!response.contains("connection: close"), "{response}");
    worker.phase.send_replace(Phase::Draining);
    wait_refused(address).await;
    stream
        .write_all(b"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let response = read_response(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(response.contains("connection: close"), "{response}");
    assert!(is_closed(&mut stream).await);
    timeout(LIMIT, worker.ended()).await.unwrap();
}

/// Connections that are idle do not hold up the end for ever.
#[tokio::test]
async fn draining_closes_idle_connections_after_the_drain_timeout() {
    let worker = TestWorker::start(&TestWorker::yaml("          drain_timeout: 0.05s", None));
    let (mut stream, _) =
        exchange(worker.address(), b"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n").await;
    worker.phase.send_replace(Phase::Draining);
    assert!(is_closed(&mut stream).await);
    timeout(LIMIT, worker.ended()).await.unwrap();
}

async fn wait_refused(address: SocketAddr) {
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(LIMIT, refused).await.unwrap();
}

/// The upstream's end of one request, which answers when told to.
async fn answer_later(upstream: TcpListener) -> TcpStream {
    let (mut stream, _) = upstream.accept().await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut text).await.unwrap();
    }
    stream
}

#[tokio::test]
async fn draining_says_goaway_and_finishes_http2_streams() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let worker = TestWorker::start(&TestWorker::yaml("", upstream.local_addr().ok()));
    let stream = connect(worker.address()).await;
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://a/slow").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut waiting = timeout(LIMIT, answer_later(upstream)).await.unwrap();
    worker.phase.send_replace(Phase::Draining);
    wait_refused(worker.publisher.current().listeners[0].sockets[0].address()).await;
    // The second GOAWAY names the last stream: no new one can begin, the old one goes on.
    let gone = async {
        loop {
            match client.clone().ready().await {
                Err(_) => return,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(LIMIT, gone).await.unwrap();
    waiting
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await
        .unwrap();
    let response = timeout(LIMIT, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let data: Bytes = timeout(LIMIT, body.data()).await.unwrap().unwrap().unwrap();
    assert_eq!(data, "ok");
    drop((client, body));
    timeout(LIMIT, connection).await.unwrap().unwrap().unwrap();
    timeout(LIMIT, worker.ended()).await.unwrap();
}

#[tokio::test]
async fn a_removed_listener_drains_and_others_go_on() {
    let first = TestWorker::yaml("", None);
    let second = first.replace("name: l\n", "name: m\n");
    let (_, listener) = second.split_once("  listeners:\n").unwrap();
    let (listener, _) = listener.split_once("  clusters:\n").unwrap();
    let both = first.replace("  clusters:\n", &format!("{listener}  clusters:\n"));
    let worker = TestWorker::start(&both);
    let addresses: Vec<SocketAddr> = worker
        .publisher
        .current()
        .listeners
        .iter()
        .map(|listener| listener.sockets[0].address())
        .collect();
    let get = b"GET /direct HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut removed, _) = exchange(addresses[0], get).await;
    let (mut kept, _) = exchange(addresses[1], get).await;
    worker.change(|snapshot| drop(snapshot.listeners.remove(0)));
    wait_refused(addresses[0]).await;
    removed.write_all(get).await.unwrap();
    assert!(
        read_response(&mut removed)
            .await
            .contains("connection: close")
    );
    kept.write_all(get).await.unwrap();
    assert!(!read_response(&mut kept).await.contains("connection: close"));
    drop(exchange(addresses[1], get).await);
}

#[tokio::test]
async fn a_client_that_goes_away_is_noted() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let worker = TestWorker::start(&TestWorker::yaml("", upstream.local_addr().ok()));
    let mut stream = connect(worker.address()).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut waiting = timeout(LIMIT, answer_later(upstream)).await.unwrap();
    drop(stream);
    // The upstream's connection goes too: nobody waits for its answer.
    assert!(is_closed(&mut waiting).await);
    assert_eq!(worker.stat("http.t.downstream_rq_rx_reset"), 1);
}

#[tokio::test]
async fn http2_serves_many_streams_at_once() {
    let worker = TestWorker::start(&TestWorker::yaml("", None));
    let stream = connect(worker.address()).await;
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut responses = Vec::new();
    for _ in 0..50 {
        client = client.ready().await.unwrap();
        let request = http::Request::get("http://a/direct").body(()).unwrap();
        responses.push(client.send_request(request, true).unwrap().0);
    }
    for response in responses {
        let response = timeout(LIMIT, response).await.unwrap().unwrap();
        assert_eq!(response.headers()["server"], "envoy");
        assert_eq!(response.headers()["content-length"], "5");
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    }
    drop(client);
    timeout(LIMIT, connection).await.unwrap().unwrap().unwrap();
}

/// A stream's future is made for each request: what makes it large is paid for each time.
#[test]
fn futures_stay_small() {
    fn size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    let serve = size(super::stream::Stream::serve);
    assert!(serve <= 6000, "{serve}");
}
