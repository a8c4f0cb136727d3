//! Clients that break the protocol or go over limits: they are told or cut off, no host hears of it, and
//! the other clients go on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::raw;
use outrigger_tests::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, data, frame, headers, headers_on,
    long_headers, reset, settings, settings_ack,
};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::Upstream;
use outrigger_tests::{block_on, wait};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{SLACK, SOON, config, good_request, nothing_is_left, served};

/// How long a client waits for what comes of its bytes.
const WAIT: Duration = Duration::from_secs(3);

struct Bad {
    name: &'static str,
    /// Sent once; and then this again and again.
    bytes: Vec<u8>,
    flood: Vec<u8>,
    expected: &'static str,
    /// What the hosts see of it.
    requests: usize,
}

fn bad(name: &'static str, bytes: impl Into<Vec<u8>>, expected: &'static str) -> Bad {
    Bad {
        name,
        bytes: bytes.into(),
        flood: Vec::new(),
        expected,
        requests: 0,
    }
}

impl Bad {
    fn flood(self, flood: impl Into<Vec<u8>>) -> Self {
        Self {
            flood: flood.into(),
            ..self
        }
    }

    /// A host may see that many requests of it.
    fn reaches(self, requests: usize) -> Self {
        Self { requests, ..self }
    }
}

fn http1() -> Vec<Bad> {
    let get = |rest: &str| format!("GET /good HTTP/1.1\r\nhost: a\r\n{rest}");
    let post = |rest: &str| format!("POST /good HTTP/1.1\r\nhost: a\r\n{rest}");
    let chunked = |rest: &str| post(&format!("transfer-encoding: chunked\r\n\r\n{rest}"));
    let many: String = (0..101)
        .map(|number| format!("x-{number}: x\r\n"))
        .collect();
    vec![
        bad(
            "tls",
            [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0, 0, 13, 10, 13, 10],
            "400",
        ),
        bad("zeros", vec![0; 100], "400"),
        bad("many-headers", get(&format!("{many}\r\n")), "431"),
        bad("endless-target", "GET /", "431").flood(vec![b'x'; 4096]),
        bad("endless-name", get(""), "431").flood(vec![b'x'; 4096]),
        bad("endless-value", get("x: "), "431").flood(vec![b'x'; 4096]),
        bad("endless-headers", get(""), "431").flood(b"x: y\r\n".repeat(200)),
        bad("endless-lines", "", "431").flood(b"\r\n".repeat(1000)),
        bad("lone-returns", "", "400").flood(b"\r".repeat(1000)),
        bad(
            "nul-in-target",
            "GET /good\0 HTTP/1.1\r\nhost: a\r\n\r\n",
            "400",
        ),
        bad(
            "space-in-target",
            "GET /go od HTTP/1.1\r\nhost: a\r\n\r\n",
            "426",
        ),
        bad("lone-return", get("x: a\rb\r\n\r\n"), "400"),
        bad("odd-chunk-size", chunked("xyz\r\n"), "400").reaches(1),
        bad("negative-chunk-size", chunked("-1\r\n"), "400").reaches(1),
        bad("huge-chunk-size", chunked("fffffffffffffffff\r\n"), "400").reaches(1),
        bad("long-chunk", chunked("2\r\nhello\r\n0\r\n\r\n"), "400").reaches(1),
        bad("endless-chunk-extension", chunked("1;"), "400")
            .flood(vec![b'x'; 4096])
            .reaches(1),
        bad("endless-trailers", chunked("0\r\n"), "400")
            .flood(b"x: y\r\n".repeat(200))
            .reaches(1),
        bad(
            "huge-length",
            post("content-length: 99999999999999999999999\r\n\r\n"),
            "400",
        ),
        bad(
            "odd-length",
            post("content-length: 0x5\r\n\r\nhello"),
            "400",
        ),
        bad(
            "plus-length",
            post("content-length: +5\r\n\r\nhello"),
            "400",
        ),
    ]
}

const PROTOCOL: &str = "goaway 1";
const CALM: &str = "goaway 11";
const STREAM: &str = "reset 1";

fn fields<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let first = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/good"),
    ];
    [&first, more].concat()
}

fn streams() -> Vec<Bad> {
    let get = |flags, more: &[(&str, &str)]| headers(flags, &fields(more));
    let only = |names: &[(&str, &str)]| headers(END_STREAM, names);
    let method = (":method", "GET");
    let (scheme, authority, path) = ((":scheme", "http"), (":authority", "a"), (":path", "/good"));
    vec![
        bad("no-path", only(&[method, scheme, authority]), STREAM),
        bad(
            "empty-path",
            only(&[method, scheme, authority, (":path", "")]),
            STREAM,
        ),
        bad("no-method", only(&[scheme, authority, path]), STREAM),
        bad("no-scheme", only(&[method, authority, path]), STREAM),
        bad("no-authority", only(&[method, scheme, path]), "400"),
        bad("path-twice", get(END_STREAM, &[(":path", "/good")]), STREAM),
        bad(
            "odd-pseudo-header",
            get(END_STREAM, &[(":odd", "x")]),
            PROTOCOL,
        ),
        bad(
            "response-pseudo-header",
            get(END_STREAM, &[(":status", "200")]),
            STREAM,
        ),
        bad(
            "late-pseudo-header",
            only(&[method, ("x", "y"), scheme, authority, path]),
            STREAM,
        ),
        bad("upper-case-name", get(END_STREAM, &[("X", "y")]), PROTOCOL),
        bad("empty-name", get(END_STREAM, &[("", "y")]), PROTOCOL),
        bad(
            "connection-header",
            get(END_STREAM, &[("connection", "close")]),
            STREAM,
        ),
        bad(
            "transfer-encoding",
            get(END_STREAM, &[("transfer-encoding", "chunked")]),
            STREAM,
        ),
        bad("te", get(END_STREAM, &[("te", "gzip")]), STREAM),
        bad(
            "line-in-value",
            get(END_STREAM, &[("x", "a\r\nb: c")]),
            PROTOCOL,
        ),
        bad("nul-in-value", get(END_STREAM, &[("x", "a\0b")]), PROTOCOL),
        bad(
            "line-in-path",
            only(&[method, scheme, authority, (":path", "/good\r\nx: y")]),
            STREAM,
        ),
        bad(
            "space-in-path",
            only(&[method, scheme, authority, (":path", "/go od")]),
            STREAM,
        ),
        bad(
            "space-in-method",
            only(&[(":method", "GET /x"), scheme, authority, path]),
            PROTOCOL,
        ),
        bad(
            "odd-authority",
            only(&[method, scheme, (":authority", "a b"), path]),
            STREAM,
        ),
        bad(
            "short-body",
            [
                get(0, &[("content-length", "9")]),
                data(END_STREAM, b"short"),
            ]
            .concat(),
            STREAM,
        )
        .reaches(1),
        bad(
            "long-body",
            [
                get(0, &[("content-length", "2")]),
                data(END_STREAM, b"long"),
            ]
            .concat(),
            STREAM,
        )
        .reaches(1),
        bad(
            "no-body",
            get(END_STREAM, &[("content-length", "2")]),
            STREAM,
        ),
        bad(
            "odd-length",
            [
                get(0, &[("content-length", "two")]),
                data(END_STREAM, b"xx"),
            ]
            .concat(),
            STREAM,
        ),
        bad(
            "different-lengths",
            [
                get(0, &[("content-length", "2"), ("content-length", "3")]),
                data(END_STREAM, b"xx"),
            ]
            .concat(),
            STREAM,
        ),
        bad(
            "pseudo-header-in-trailers",
            [get(0, &[]), headers(END_STREAM, &[(":path", "/")])].concat(),
            "200",
        )
        .reaches(1),
        bad(
            "trailers-that-go-on",
            [get(0, &[]), headers(0, &[("x", "y")])].concat(),
            STREAM,
        )
        .reaches(1),
    ]
}

fn frames() -> Vec<Bad> {
    let get = headers(END_STREAM, &fields(&[]));
    let long = "x".repeat(70 * 1024);
    let long = block(&fields(&[("x", &long)]));
    let many = [block(&fields(&[])), block(&[("x", "y")]).repeat(101)].concat();
    let names: Vec<String> = (0..30_000).map(|number| format!("x{number}")).collect();
    let names: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let names = [block(&fields(&[])), block(&names)].concat();
    let endless = frame(HEADERS, END_STREAM, 1, &block(&fields(&[])));
    let rapid: Vec<u8> = (0..5000)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            let mut both = headers_on(stream, END_STREAM, &fields(&[]));
            both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            both
        })
        .collect();
    vec![
        bad(
            "bad-block",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 20]),
            PROTOCOL,
        ),
        bad(
            "bad-index",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80]),
            PROTOCOL,
        ),
        bad("data-on-connection", frame(DATA, 0, 0, b"x"), PROTOCOL),
        bad(
            "head-on-connection",
            frame(HEADERS, END_HEADERS, 0, &[0x82]),
            PROTOCOL,
        ),
        bad("data-on-idle-stream", frame(DATA, 0, 99, b"x"), PROTOCOL),
        bad(
            "even-stream",
            headers_on(2, END_STREAM, &fields(&[])),
            PROTOCOL,
        ),
        bad(
            "smaller-stream",
            [
                headers_on(5, END_STREAM, &fields(&[])),
                headers_on(3, END_STREAM, &fields(&[])),
            ]
            .concat(),
            PROTOCOL,
        )
        .reaches(1),
        bad(
            "data-after-end",
            [
                headers(
                    END_STREAM,
                    &fields(&[("x-upstream-script", r#"{"delay_ms": 300}"#)]),
                ),
                data(END_STREAM, b"more"),
            ]
            .concat(),
            PROTOCOL,
        )
        .reaches(1),
        bad("large-frame", data(0, &[0; 20_000]), "goaway 6"),
        bad(
            "bad-padding",
            [headers(0, &fields(&[])), frame(DATA, 8, 1, &[200, 1])].concat(),
            PROTOCOL,
        )
        .reaches(1),
        bad(
            "lone-continuation",
            frame(CONTINUATION, END_HEADERS, 1, &[0x82]),
            PROTOCOL,
        ),
        bad(
            "torn-head",
            [endless.clone(), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL,
        ),
        bad("short-settings", frame(SETTINGS, 0, 0, &[0; 5]), PROTOCOL),
        bad("settings-on-stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        bad("odd-window", settings(&[(4, 0xffff_ffff)]), PROTOCOL),
        bad("short-ping", frame(PING, 0, 0, &[0; 3]), PROTOCOL),
        bad(
            "push",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            PROTOCOL,
        ),
        bad(
            "window-by-nothing",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL,
        ),
        bad(
            "window-overflow",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            "goaway 3",
        ),
        bad("reset-of-idle-stream", reset(8), PROTOCOL),
        bad(
            "unknown-frame",
            [frame(200, 0, 1, b"?"), get].concat(),
            "200",
        )
        .reaches(1),
        bad("long-header", long_headers(1, END_STREAM, &long), "431"),
        bad("many-headers", long_headers(1, END_STREAM, &many), "431"),
        bad(
            "too-many-headers",
            long_headers(1, END_STREAM, &names),
            CALM,
        ),
        bad("endless-head", endless.clone(), CALM).flood(frame(
            CONTINUATION,
            0,
            1,
            &block(&[("x", "y")]).repeat(100),
        )),
        bad("endless-empty-head", endless, CALM).flood(frame(CONTINUATION, 0, 1, &[]).repeat(1000)),
        bad("rapid-resets", rapid, CALM).reaches(5000),
        bad("endless-pings", "", "nothing").flood(frame(PING, 0, 0, &[0; 8]).repeat(100)),
        bad("endless-settings", "", "nothing").flood(settings(&[]).repeat(100)),
        bad("endless-empty-data", headers(0, &fields(&[])), CALM)
            .flood(data(0, b"").repeat(100))
            .reaches(1),
    ]
}

#[test]
fn http1_that_is_none() {
    check(&http1(), false);
}

#[test]
fn streams_that_break() {
    check(&streams(), true);
}

#[test]
fn frames_that_are_none() {
    check(&frames(), true);
}

fn check(all: &[Bad], is_http2: bool) {
    if let Err(error) = block_on(run(all, is_http2)) {
        panic!("{error:#}");
    }
}

async fn run(all: &[Bad], is_http2: bool) -> Result<()> {
    let good = Upstream::start("good").await?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("access.log").display().to_string();
    let config = config(std::iter::empty(), good.address(), &json!({}), &log);
    let mut proxy = Proxy::start_in(Kind::Outrigger, &config.to_string(), folder, &[]).await?;
    let main = proxy.listener("main").await?;
    let mut wrong = Vec::new();
    for bad in all {
        good.take_received();
        let begun = Instant::now();
        let outcome = match is_http2 {
            true => talk_http2(main, bad).await?,
            false => talk_http1(main, bad).await?,
        };
        if outcome != bad.expected {
            let took = begun.elapsed();
            wrong.push(format!("{}: {outcome} ({took:?})", bad.name));
        }
        let reached = good.take_received().len();
        if reached > bad.requests {
            wrong.push(format!("{}: {reached} requests went on", bad.name));
        }
        // Everybody else is served, in time.
        let begun = Instant::now();
        let next = good_request().send_h1(main).await?;
        served(&next).context(bad.name)?;
        ensure!(
            begun.elapsed() < SLACK,
            "{}: {:?}",
            bad.name,
            begun.elapsed()
        );
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    proxy.process().check_running()?;
    ensure!(!proxy.log().contains("panicked"), "{}", proxy.log());
    nothing_is_left(&proxy).await?;
    wait::until("the end of the connections", SOON, async || {
        let left = proxy.stats().await?["http.main.downstream_cx_active"];
        ensure!(left == 0, "{left} connections");
        Ok(())
    })
    .await
}

/// Sends in one task, so that a peer that does not read does not keep us from reading.
fn send(
    bad: &Bad,
    first: &[u8],
    to: tokio::net::tcp::OwnedWriteHalf,
) -> tokio::task::JoinHandle<()> {
    let (first, flood) = ([first, &bad.bytes].concat(), bad.flood.clone());
    tokio::spawn(async move {
        let mut to = to;
        _ = to.write_all(&first).await;
        while !flood.is_empty() && to.write_all(&flood).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Stays open: the other side is to decide.
        std::future::pending::<()>().await;
    })
}

/// The status of the answer, after which the connection is closed, or what else came of it.
async fn talk_http1(main: SocketAddr, bad: &Bad) -> Result<String> {
    use tokio::io::AsyncReadExt as _;
    let (mut from, to) = TcpStream::connect(main).await?.into_split();
    let sending = send(bad, &[], to);
    let mut received = Vec::new();
    let read = async {
        while from
            .read_buf(&mut received)
            .await
            .is_ok_and(|read| read > 0)
        {}
    };
    let end = tokio::time::timeout(WAIT, read).await;
    sending.abort();
    let reply = raw::parse(&received);
    let status = match reply.status {
        0 => "closed".to_owned(),
        status => status.to_string(),
    };
    Ok(match end {
        Ok(()) => status,
        Err(_) => format!("{status} and open"),
    })
}

/// The first that came: a status, or the error code of a reset or of the connection's end.
async fn talk_http2(main: SocketAddr, bad: &Bad) -> Result<String> {
    let (mut from, to) = TcpStream::connect(main).await?.into_split();
    let first = [PREFACE.to_vec(), settings(&[]), settings_ack()].concat();
    let sending = send(bad, &first, to);
    let read = async {
        loop {
            let Some(frame) = Frame::read(&mut from).await else {
                return Ok("closed".to_owned());
            };
            match frame.kind {
                HEADERS => return frames::status(&frame.payload),
                RST_STREAM => return Ok(format!("reset {}", frame.error_code()?)),
                GOAWAY => return Ok(format!("goaway {}", frame.error_code()?)),
                _ => {}
            }
        }
    };
    let outcome = tokio::time::timeout(WAIT, read).await;
    sending.abort();
    outcome.unwrap_or_else(|_| Ok("nothing".to_owned()))
}

/// The route's timeout holds for a client that takes nothing of a large answer, too: the host's side is
/// free afterwards, though the client stays.
#[test]
fn clients_that_do_not_read() {
    for kind in [Kind::Envoy, Kind::Outrigger] {
        if let Err(error) = block_on(not_reading(kind)) {
            panic!("{}: {error:#}", kind.name());
        }
    }
}

async fn not_reading(kind: Kind) -> Result<()> {
    let good = Upstream::start("good").await?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("access.log").display().to_string();
    let config = config(std::iter::empty(), good.address(), &json!({}), &log);
    let proxy = Proxy::start_in(kind, &config.to_string(), folder, &[]).await?;
    let main = proxy.listener("main").await?;
    let script = r#"{"body_size": 60000000, "chunks": 1000}"#;
    let http1 = format!("GET /good HTTP/1.1\r\nhost: a\r\nx-upstream-script: {script}\r\n\r\n");
    let head = headers(END_STREAM, &fields(&[("x-upstream-script", script)]));
    let no_window = [PREFACE.to_vec(), settings(&[(4, 0)]), settings_ack(), head].concat();
    for bytes in [http1.into_bytes(), no_window] {
        let mut connection = TcpStream::connect(main).await?;
        connection.write_all(&bytes).await?;
        wait::until("the request at the host", SOON, async || {
            ensure!(good.pending() > 0, "not yet");
            Ok(())
        })
        .await?;
        nothing_is_left(&proxy).await?;
        let timeouts = proxy.stats().await?["cluster.good.upstream_rq_timeout"];
        ensure!(timeouts > 0, "it ended in another way");
        wait::until("the access log", SOON, async || {
            let logged = std::fs::read_to_string(&log)?;
            ensure!(logged == "/good UT response_timeout\n", "{logged:?}");
            Ok(())
        })
        .await?;
        std::fs::write(&log, "")?;
        drop(connection);
        good.take_received();
    }
    served(&good_request().send_h1(main).await?)
}
