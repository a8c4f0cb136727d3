//! Hosts of HTTP/2.

use outrigger_tests::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PUSH_PROMISE, SETTINGS,
    WINDOW_UPDATE, block, data, frame, go_away, headers, long_headers, reset, settings,
};
use outrigger_tests::upstream::Deed;
use serde_json::json;

use super::{Case, TYPES, case, check};

const TERMINATED: &[&str] =
    &["503 UC upstream_reset_before_response_started{connection_termination}"];
const GARBAGE: &[&str] = &["502 UPE upstream_reset_before_response_started{protocol_error}"];
/// The reset may come before the connection is seen.
const RESET_AT_ONCE: &[&str] = &[
    "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_reset_by_peer}",
    "503 UC upstream_reset_before_response_started{connection_termination}",
];
const RESET: &[&str] = &["503 UR upstream_reset_before_response_started{remote_reset}"];
const REFUSED: &[&str] =
    &["503 UR upstream_reset_before_response_started{remote_refused_stream_reset}"];
const LATE: &[&str] = &["504 UT response_timeout"];
/// Envoy ends a connection that makes it answer too much, if the answers pile up.
const FLOODED: &[&str] = &[LATE[0], GARBAGE[0]];
const BROKE: &[&str] = &["200 broken UPE upstream_reset_after_response_started{protocol_error}"];
const ENDED: &[&str] =
    &["200 broken UC upstream_reset_after_response_started{connection_termination}"];
const CANCELLED: &[&str] = &["200 broken UR upstream_reset_after_response_started{remote_reset}"];
const TOO_SLOW: &[&str] = &["200 broken UT response_timeout"];
const SERVED: &[&str] = &["200 - via_upstream"];

/// Answers a request with these frames and listens on.
fn answers(frames: &[Vec<u8>]) -> Vec<Deed> {
    then(frames, &[Deed::Listen])
}

fn then(frames: &[Vec<u8>], last: &[Deed]) -> Vec<Deed> {
    let first = [
        Deed::ReadHeaders(settings(&[])),
        Deed::Send(frames.concat()),
    ];
    [&first, last].concat()
}

fn ok(flags: u8) -> Vec<u8> {
    headers(flags, &[(":status", "200")])
}

fn connections() -> Vec<Case> {
    let first = Deed::ReadHeaders(settings(&[]));
    let silent = Deed::ReadHeaders(Vec::new());
    let begun = [ok(0), data(0, b"begun")];
    vec![
        case("closes-at-once", vec![], TERMINATED),
        case("resets-at-once", vec![Deed::Reset], RESET_AT_ONCE),
        case(
            "speaks-http1",
            vec![
                silent.clone(),
                Deed::Send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec()),
            ],
            GARBAGE,
        ),
        case("closes-before-settings", vec![silent.clone()], TERMINATED),
        case("closes-before-head", vec![first.clone()], TERMINATED),
        case(
            "resets-before-head",
            vec![first.clone(), Deed::Reset],
            TERMINATED,
        ),
        case(
            "closes-in-head",
            then(&[ok(0)[..10].to_vec()], &[]),
            TERMINATED,
        ),
        case("closes-in-body", then(&begun, &[Deed::Pause]), ENDED),
        case(
            "resets-in-body",
            then(&begun, &[Deed::Pause, Deed::Reset]),
            ENDED,
        ),
        case(
            "closes-in-frame",
            then(&[ok(0), data(0, b"begun")[..11].to_vec()], &[Deed::Pause]),
            ENDED,
        ),
        case("hangs-at-once", vec![Deed::Hang], LATE),
        case("hangs-before-settings", vec![silent, Deed::Hang], LATE),
        case("hangs-before-head", vec![first.clone(), Deed::Hang], LATE),
        case(
            "hangs-in-head",
            then(&[ok(0)[..10].to_vec()], &[Deed::Hang]),
            LATE,
        ),
        case("hangs-in-body", then(&begun, &[Deed::Hang]), TOO_SLOW),
        case("drips-head", vec![first.clone(), Deed::Drip(ok(0))], LATE),
        case(
            "drips-body",
            then(&[ok(0)], &[Deed::Drip(data(0, b"x").repeat(3))]),
            TOO_SLOW,
        ),
        case(
            "takes-no-streams",
            vec![Deed::Send(settings(&[(3, 0)])), first, Deed::Hang],
            LATE,
        ),
        case("goes-away-before-head", answers(&[go_away(0, 0)]), REFUSED),
        case("goes-away-in-anger", answers(&[go_away(0, 11)]), REFUSED),
        case(
            "goes-away-and-serves",
            answers(&[go_away(1, 0), ok(0), data(END_STREAM, b"done")]),
            SERVED,
        ),
        case(
            "goes-away-in-body",
            then(&[ok(0), data(0, b"begun"), go_away(1, 2)], &[Deed::Pause]),
            ENDED,
        ),
    ]
}

fn streams() -> Vec<Case> {
    let begun = [ok(0), data(0, b"begun")];
    let after = |frame: Vec<u8>| answers(&[ok(0), data(0, b"begun"), frame]);
    vec![
        case("reset-no-error", answers(&[reset(0)]), RESET),
        case("reset-internal-error", answers(&[reset(2)]), RESET),
        case("reset-refused", answers(&[reset(7)]), REFUSED),
        case("reset-cancel", answers(&[reset(8)]), RESET),
        case("reset-unknown-code", answers(&[reset(999)]), RESET),
        case(
            "reset-in-body",
            then(&begun, &[Deed::Pause, Deed::Send(reset(2)), Deed::Listen]),
            CANCELLED,
        ),
        case(
            "reset-in-body-no-error",
            then(&begun, &[Deed::Pause, Deed::Send(reset(0)), Deed::Listen]),
            CANCELLED,
        ),
        case(
            "no-status",
            answers(&[headers(END_STREAM, &[("x", "y")])]),
            GARBAGE,
        ),
        case(
            "odd-status",
            answers(&[headers(END_STREAM, &[(":status", "2x0")])]),
            GARBAGE,
        ),
        case(
            "small-status",
            answers(&[headers(END_STREAM, &[(":status", "99")])]),
            GARBAGE,
        ),
        case(
            "status-twice",
            answers(&[headers(
                END_STREAM,
                &[(":status", "200"), (":status", "500")],
            )]),
            GARBAGE,
        ),
        case(
            "request-pseudo-header",
            answers(&[headers(END_STREAM, &[(":status", "200"), (":path", "/")])]),
            GARBAGE,
        )
        .ours(SERVED),
        case(
            "late-pseudo-header",
            answers(&[headers(END_STREAM, &[("x", "y"), (":status", "200")])]),
            GARBAGE,
        ),
        case(
            "upper-case-name",
            answers(&[headers(END_STREAM, &[(":status", "200"), ("X", "y")])]),
            GARBAGE,
        ),
        case(
            "connection-header",
            answers(&[headers(
                END_STREAM,
                &[(":status", "200"), ("connection", "close")],
            )]),
            GARBAGE,
        ),
        case(
            "line-in-value",
            answers(&[headers(
                END_STREAM,
                &[(":status", "200"), ("x", "a\r\nb: c")],
            )]),
            GARBAGE,
        ),
        case(
            "uninvited-switch",
            answers(&[headers(0, &[(":status", "101")])]),
            GARBAGE,
        )
        .ours(LATE),
        case(
            "interim-that-ends",
            answers(&[headers(END_STREAM, &[(":status", "100")])]),
            GARBAGE,
        ),
        case(
            "data-before-head",
            answers(&[data(END_STREAM, b"x")]),
            GARBAGE,
        ),
        case(
            "short-body",
            answers(&[
                headers(0, &[(":status", "200"), ("content-length", "10")]),
                data(END_STREAM, b"short"),
            ]),
            BROKE,
        ),
        case(
            "long-body",
            answers(&[
                headers(0, &[(":status", "200"), ("content-length", "2")]),
                data(END_STREAM, b"long"),
            ]),
            BROKE,
        ),
        case(
            "no-body",
            answers(&[headers(
                END_STREAM,
                &[(":status", "200"), ("content-length", "2")],
            )]),
            GARBAGE,
        ),
        case(
            "odd-length",
            answers(&[
                headers(0, &[(":status", "200"), ("content-length", "two")]),
                data(END_STREAM, b"xx"),
            ]),
            GARBAGE,
        ),
        case(
            "different-lengths",
            answers(&[
                headers(
                    0,
                    &[
                        (":status", "200"),
                        ("content-length", "2"),
                        ("content-length", "3"),
                    ],
                ),
                data(END_STREAM, b"xx"),
            ]),
            GARBAGE,
        ),
        case(
            "trailers-that-go-on",
            after(headers(0, &[("x", "y")])),
            BROKE,
        ),
        case(
            "pseudo-header-in-trailers",
            after(headers(END_STREAM, &[(":status", "200")])),
            BROKE,
        )
        .ours(SERVED),
        case(
            "data-after-end",
            answers(&[ok(0), data(END_STREAM, b"done"), data(END_STREAM, b"more")]),
            SERVED,
        ),
        case(
            "window-overflow-of-stream",
            after(frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes())),
            BROKE,
        )
        .ours(TOO_SLOW),
    ]
}

fn frames() -> Vec<Case> {
    let long = block(&[(":status", "200"), ("x", &"x".repeat(70 * 1024))]);
    let many: Vec<String> = (0..30_000).map(|number| format!("x{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    let many = [block(&[(":status", "200")]), block(&many)].concat();
    let some = block(&[(":status", "200")]);
    let some = [some, block(&[("x", "y")]).repeat(101)].concat();
    let endless = frame(HEADERS, 0, 1, &block(&[(":status", "200")]));
    let interim = headers(0, &[(":status", "103"), ("x", "y")]);
    vec![
        case(
            "bad-block",
            answers(&[frame(HEADERS, END_HEADERS, 1, &[0xff; 20])]),
            GARBAGE,
        ),
        case(
            "bad-index",
            answers(&[frame(HEADERS, END_HEADERS, 1, &[0x80])]),
            GARBAGE,
        ),
        case(
            "data-on-connection",
            answers(&[frame(DATA, 0, 0, b"x")]),
            GARBAGE,
        ),
        case(
            "head-on-connection",
            answers(&[frame(HEADERS, END_HEADERS, 0, &[0x88])]),
            GARBAGE,
        ),
        case(
            "data-on-idle-stream",
            answers(&[frame(DATA, 0, 99, b"x")]),
            GARBAGE,
        ),
        case(
            "even-stream",
            answers(&[frame(HEADERS, END_HEADERS, 2, &[0x88])]),
            GARBAGE,
        ),
        case(
            "large-frame",
            answers(&[ok(0), data(0, &[0; 20_000])]),
            BROKE,
        ),
        case(
            "bad-padding",
            answers(&[ok(0), frame(DATA, 8, 1, &[200, 1])]),
            BROKE,
        ),
        case(
            "lone-continuation",
            answers(&[frame(CONTINUATION, END_HEADERS, 1, &[0x88])]),
            GARBAGE,
        ),
        case(
            "torn-head",
            answers(&[endless.clone(), frame(PING, 0, 0, &[0; 8])]),
            GARBAGE,
        ),
        case(
            "short-settings",
            answers(&[frame(SETTINGS, 0, 0, &[0; 5])]),
            GARBAGE,
        ),
        case(
            "settings-on-stream",
            answers(&[frame(SETTINGS, 0, 1, &[])]),
            GARBAGE,
        ),
        case(
            "odd-window",
            answers(&[settings(&[(4, 0xffff_ffff)])]),
            GARBAGE,
        ),
        case(
            "short-ping",
            answers(&[frame(PING, 0, 0, &[0; 3])]),
            GARBAGE,
        ),
        case(
            "push",
            answers(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])]),
            GARBAGE,
        ),
        case(
            "window-by-nothing",
            answers(&[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
            GARBAGE,
        ),
        case(
            "window-overflow",
            answers(&[frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())]),
            GARBAGE,
        ),
        case(
            "unknown-frame",
            answers(&[frame(200, 0, 1, b"?"), ok(END_STREAM)]),
            SERVED,
        ),
        case(
            "long-header",
            answers(&[long_headers(1, END_STREAM, &long)]),
            GARBAGE,
        ),
        case(
            "many-headers",
            answers(&[long_headers(1, END_STREAM, &some)]),
            RESET,
        )
        .ours(GARBAGE),
        case(
            "too-many-headers",
            answers(&[long_headers(1, END_STREAM, &many)]),
            RESET,
        )
        .ours(GARBAGE),
        case(
            "endless-head",
            then(
                std::slice::from_ref(&endless),
                &[Deed::Flood(frame(
                    CONTINUATION,
                    0,
                    1,
                    &block(&[("x", "y")]).repeat(100),
                ))],
            ),
            RESET,
        )
        .ours(GARBAGE),
        case(
            "endless-empty-head",
            then(
                &[endless],
                &[Deed::Flood(frame(CONTINUATION, 0, 1, &[]).repeat(1000))],
            ),
            GARBAGE,
        ),
        case(
            "endless-interim",
            then(&[], &[Deed::Flood(interim.repeat(100))]),
            LATE,
        ),
        case(
            "endless-pings",
            then(&[], &[Deed::Flood(frame(PING, 0, 0, &[0; 8]).repeat(100))]),
            FLOODED,
        )
        .ours(LATE),
        case(
            "endless-settings",
            then(&[], &[Deed::Flood(settings(&[]).repeat(100))]),
            FLOODED,
        )
        .ours(LATE),
        case(
            "endless-empty-data",
            then(&[ok(0)], &[Deed::Flood(data(0, b"").repeat(100))]),
            BROKE,
        ),
    ]
}

fn http2() -> serde_json::Value {
    json!({"typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    }})
}

#[test]
fn connections_that_end_or_hang() {
    check(&connections(), &http2());
}

#[test]
fn streams_that_break() {
    check(&streams(), &http2());
}

#[test]
fn frames_that_are_none() {
    check(&frames(), &http2());
}
