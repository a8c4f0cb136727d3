//! Hosts of HTTP/1.

use outrigger_tests::upstream::Deed;
use serde_json::json;

use super::{Case, Host, case, check};

const TERMINATED: &[&str] =
    &["503 UC upstream_reset_before_response_started{connection_termination}"];
const GARBAGE: &[&str] = &["502 UPE upstream_reset_before_response_started{protocol_error}"];
const UNCONNECTED: &[&str] = &[
    "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
];
/// The reset may come before the connection is seen.
const RESET: &[&str] = &[
    "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_reset_by_peer}",
    "503 UC upstream_reset_before_response_started{connection_termination}",
];
const SILENT: &[&str] = &["503 UF upstream_reset_before_response_started{connection_timeout}"];
const LATE: &[&str] = &["504 UT response_timeout"];
const BROKE: &[&str] = &["200 broken UPE upstream_reset_after_response_started{protocol_error}"];
const TOO_SLOW: &[&str] = &["200 broken UT response_timeout"];
/// Clients do not take it.
const PASSED: &[&str] = &["0 broken - via_upstream"];
const SERVED: &[&str] = &["200 - via_upstream"];

/// Sends this after the request's head.
fn answers(text: &str) -> Vec<Deed> {
    vec![Deed::ReadHead, Deed::Send(text.into())]
}

fn then(text: &str, last: &[Deed]) -> Vec<Deed> {
    [&answers(text), last].concat()
}

fn connections() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n";
    vec![
        case("refused", vec![], UNCONNECTED)
            .host(Host::Refused)
            .reason("Connection refused"),
        case("silent", vec![], SILENT)
            .host(Host::Silent)
            .reason("connect_timeout=300ms"),
        case("closes-at-once", vec![], TERMINATED),
        case("resets-at-once", vec![Deed::Reset], RESET),
        case("closes-before-head", vec![Deed::ReadHead], TERMINATED),
        case(
            "resets-before-head",
            vec![Deed::ReadHead, Deed::Reset],
            TERMINATED,
        ),
        case(
            "closes-in-head",
            answers("HTTP/1.1 200 OK\r\ncontent-"),
            GARBAGE,
        )
        .ours(TERMINATED),
        case(
            "resets-in-head",
            then("HTTP/1.1 200 OK\r\ncontent-", &[Deed::Pause, Deed::Reset]),
            GARBAGE,
        )
        .ours(TERMINATED),
        case("closes-in-body", then(head, &[Deed::Pause]), BROKE),
        case(
            "resets-in-body",
            then(head, &[Deed::Pause, Deed::Reset]),
            BROKE,
        ),
        case(
            "closes-between-chunks",
            then(chunked, &[Deed::Pause]),
            BROKE,
        ),
        case(
            "resets-between-chunks",
            then(chunked, &[Deed::Pause, Deed::Reset]),
            BROKE,
        ),
        case(
            "closes-in-chunk",
            then(&format!("{chunked}64\r\nrest"), &[Deed::Pause]),
            BROKE,
        ),
        case(
            "closes-in-chunk-size",
            then(&format!("{chunked}6"), &[Deed::Pause]),
            BROKE,
        ),
        case(
            "closes-in-trailers",
            then(&format!("{chunked}0\r\na: b\r\n"), &[Deed::Pause]),
            BROKE,
        ),
        case("hangs-at-once", vec![Deed::Hang], LATE),
        case("hangs-before-head", vec![Deed::ReadHead, Deed::Hang], LATE),
        case(
            "hangs-in-head",
            then("HTTP/1.1 200 OK\r\ncontent-", &[Deed::Hang]),
            LATE,
        ),
        case("hangs-in-body", then(head, &[Deed::Hang]), TOO_SLOW),
        case(
            "hangs-between-chunks",
            then(chunked, &[Deed::Hang]),
            TOO_SLOW,
        ),
        case(
            "hangs-in-chunk-size",
            then(&format!("{chunked}6"), &[Deed::Hang]),
            TOO_SLOW,
        ),
        case(
            "drips-head",
            vec![Deed::ReadHead, Deed::Drip(head.into())],
            LATE,
        ),
        case(
            "drips-body",
            then(head, &[Deed::Drip(b"another".to_vec())]),
            TOO_SLOW,
        ),
        case(
            "floods-body",
            then(
                "HTTP/1.1 200 OK\r\n\r\n",
                &[Deed::Flood(vec![b'x'; 16_384])],
            ),
            TOO_SLOW,
        ),
    ]
}

fn messages() -> Vec<Case> {
    let ok = |rest: &str| answers(&format!("HTTP/1.1 200 OK\r\n{rest}"));
    let chunked = |rest: &str| ok(&format!("transfer-encoding: chunked\r\n\r\n{rest}"));
    let long = "x".repeat(70 * 1024);
    let longer = "x".repeat(81 * 1024);
    let many: String = (0..101)
        .map(|number| format!("x-{number}: x\r\n"))
        .collect();
    vec![
        case("other-protocol", answers("SSH-2.0-nothing\r\n\r\n"), GARBAGE),
        case("tls-alert", vec![Deed::ReadHead, Deed::Send(vec![21, 3, 1, 0, 2, 2, 40])], GARBAGE),
        case("zeros", vec![Deed::ReadHead, Deed::Send(vec![0; 1024])], GARBAGE),
        case("floods-garbage", vec![Deed::ReadHead, Deed::Flood(vec![255; 16_384])], GARBAGE),
        case("http2", vec![Deed::ReadHead, Deed::Send(vec![0, 0, 0, 4, 0, 0, 0, 0, 0])], GARBAGE),
        case("odd-version", answers("HTTP/3.7 200 OK\r\ncontent-length: 0\r\n\r\n"), SERVED).ours(GARBAGE),
        case("odd-status", answers("HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n"), GARBAGE),
        case("small-status", answers("HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n"), PASSED).ours(GARBAGE),
        case("large-status", answers("HTTP/1.1 1200 High\r\ncontent-length: 0\r\n\r\n"), PASSED).ours(GARBAGE),
        case("odd-name", ok("bad name: x\r\ncontent-length: 0\r\n\r\n"), GARBAGE),
        case("nul-in-value", ok("x: a\0b\r\ncontent-length: 0\r\n\r\n"), GARBAGE),
        case("lone-return-in-value", ok("x: a\rb\r\ncontent-length: 0\r\n\r\n"), SERVED).ours(GARBAGE),
        case("folded-value", ok("x: a\r\n b\r\ncontent-length: 0\r\n\r\n"), SERVED).ours(GARBAGE),
        case("long-header", ok(&format!("x: {long}\r\ncontent-length: 0\r\n\r\n")), SERVED),
        case("longer-header", ok(&format!("x: {longer}\r\ncontent-length: 0\r\n\r\n")), GARBAGE),
        case("many-headers", ok(&format!("{many}content-length: 0\r\n\r\n")), GARBAGE),
        case("endless-head", vec![Deed::ReadHead, Deed::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Deed::Flood(b"x: y\r\n".repeat(1000))], GARBAGE),
        case("endless-interim", vec![Deed::ReadHead, Deed::Flood(b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(100))], LATE),
        case("uninvited-switch", answers("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"), &["101 - via_upstream", "0 broken - via_upstream"]).ours(GARBAGE),
        case("different-lengths", ok("content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"), GARBAGE),
        case("both-framings", ok("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), GARBAGE),
        case("negative-length", ok("content-length: -5\r\n\r\n"), GARBAGE),
        case("odd-length", ok("content-length: five\r\n\r\nhello"), GARBAGE),
        case("huge-length", ok("content-length: 99999999999999999999999\r\n\r\nhello"), GARBAGE),
        case("odd-encoding", ok("transfer-encoding: gzip\r\n\r\nhello"), GARBAGE),
        case("long-body", ok("content-length: 5\r\n\r\nhello world"), SERVED),
        case("answers-twice", ok("content-length: 0\r\n\r\nHTTP/1.1 500 Smuggled\r\ncontent-length: 0\r\n\r\n"), SERVED),
        case("body-of-no-content", answers("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello"), GARBAGE).ours(&["204 - via_upstream"]),
        case("odd-chunk-size", chunked("xyz\r\n"), BROKE),
        case("huge-chunk-size", chunked("fffffffffffffffff\r\nx"), BROKE),
        case("long-chunk", chunked("2\r\nhello\r\n0\r\n\r\n"), SERVED).ours(BROKE),
        case("endless-chunk-extension", then("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", &[Deed::Flood(vec![b'x'; 16_384])]), TOO_SLOW).ours(BROKE),
        case("endless-trailers", then("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", &[Deed::Flood(b"x: y\r\n".repeat(1000))]), BROKE),
    ]
}

#[test]
fn connections_that_end_or_hang() {
    check(&connections(), &json!({}));
}

#[test]
fn messages_that_are_none() {
    check(&messages(), &json!({}));
}
