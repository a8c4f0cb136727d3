use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;

use super::*;
use crate::telemetry::{flags::ResponseFlags, testing::stream_info as info};

fn parts() -> http::request::Parts {
    let request = http::Request::builder()
        .method("GET")
        .uri("/foo?q=1&r=2%20x")
        .header("host", "example.com:80")
        .header("x-a", "hello")
        .header("x-a", "second");
    request.body(()).unwrap().into_parts().0
}

fn eval_with(info: &StreamInfo, text: &str, missing: Missing) -> String {
    let parts = parts();
    let mut response = HeaderMap::new();
    response.insert("server", HeaderValue::from_static("envoy"));
    let cx = Context {
        info,
        request: Some(RequestHead::new(&parts, &Scheme::HTTP)),
        response: Some(&response),
        trailers: None,
    };
    let mut out = Vec::new();
    write(&Format::parse(text).unwrap(), &cx, missing, &mut out);
    String::from_utf8(out).unwrap()
}

fn eval(text: &str) -> String {
    eval_with(&info(), text, Missing::Dash)
}

/// Values as Envoy 1.40 printed them for the same request.
#[test]
fn operators_print_what_envoy_prints() {
    for (format, expected) in [
        ("plain", "plain"),
        ("100%%", "100%"),
        ("%%REQ(x-a)%%", "%REQ(x-a)%"),
        ("[%REQ(x-a)%]", "[hello]"),
        ("%REQ(x-a):2%", "he"),
        ("%REQ(x-a):0%", ""),
        ("%REQ(x-b?X-A)%", "hello"),
        ("%REQ(x-b)%", "-"),
        (
            "%REQ(:METHOD)% %REQ(:path)% %REQ(:authority)% %REQ(host)% %REQ(:scheme)%",
            "GET /foo?q=1&r=2%20x example.com:80 example.com:80 http",
        ),
        ("%REQ_WITHOUT_QUERY(:path)%", "/foo"),
        (
            "%PATH(NQ)% %PATH(WQ)% %PATH(NQ:ORIG)%",
            "/foo /foo?q=1&r=2%20x -",
        ),
        (
            "%QUERY_PARAM(q)% %QUERY_PARAM(r)% %QUERY_PARAM(z)% %QUERY_PARAMS(ORIG)%",
            "1 2 x - q=1&r=2%20x",
        ),
        ("%START_TIME%", "2026-11-25T01:06:51.874Z"),
        (
            "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s %3s %f %3f %6f %9f %E3S %1f)%",
            "2026/11/25T01:06:51+0000 1795568811 1795568811 874510000 874 874510 874510000 51.874 8",
        ),
        ("%START_TIME((%s))%", "(1795568811)"),
        ("%PROTOCOL% %UPSTREAM_PROTOCOL%", "HTTP/1.1 -"),
        (
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "0 - -",
        ),
        ("%BYTES_RECEIVED% %BYTES_SENT%", "0 0"),
        (
            "%REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%",
            "- - -",
        ),
        (
            "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%",
            "127.0.0.1:18080 18080",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%",
            "10.0.0.1 4444",
        ),
        (
            "%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_REMOTE_PORT%",
            "- - -",
        ),
        (
            "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_CONNECTION_ID%",
            "0 0",
        ),
        (
            "%CONNECTION_ID% %STREAM_ID% %TRACE_ID% %SPAN_ID%",
            "7 - - -",
        ),
        (
            "%REQUESTED_SERVER_NAME% %REQUESTED_SERVER_NAME(SNI_FIRST)%",
            "- example.com:80",
        ),
        ("%GRPC_STATUS% %GRPC_STATUS_NUMBER%", "- -"),
        ("%RESP(server)% %RESP(nope)% %TRAILER(x)%", "envoy - -"),
        ("%ENVIRONMENT(OUTRIGGER_NOT_SET)% %OUTRIGGER_REASON%", "- -"),
    ] {
        assert_eq!(eval(format), expected, "{format}");
    }
    assert_eq!(
        eval_with(&info(), "a-%REQ(nope)%-b", Missing::Empty),
        "a--b"
    );
}

#[test]
fn details_lose_their_spaces() {
    let mut info = info();
    info.details = Some("a b\tc".into());
    info.flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::NO_ROUTE_FOUND;
    info.response_code = Some(StatusCode::SERVICE_UNAVAILABLE);
    let text = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%";
    assert_eq!(
        eval_with(&info, text, Missing::Dash),
        "503 a_b_c UF,NR UpstreamConnectionFailure,NoRouteFound"
    );
    let text = "%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%";
    assert_eq!(eval_with(&info, text, Missing::Dash), "a b\tc");
}

#[test]
fn durations_are_between_moments() {
    let mut info = info();
    let at = |ms| Some(info.start + Duration::from_millis(ms));
    let (last_rx, us_end, us_first, last) = (at(10), at(20), at(30), at(70));
    info.downstream.last_rx.set(last_rx);
    info.upstream.last_tx.set(us_end);
    info.upstream.first_rx = us_first;
    info.downstream.last_tx = last;
    let text = "%DURATION% %REQUEST_DURATION% %REQUEST_TX_DURATION% %RESPONSE_DURATION% \
                %RESPONSE_TX_DURATION% %COMMON_DURATION(US_TX_END:US_RX_BEG:us)%";
    assert_eq!(
        eval_with(&info, text, Missing::Dash),
        "70 10 20 30 40 10000"
    );
}

#[test]
fn grpc_status_comes_from_trailers_headers_or_the_http_status() {
    let mut info = info();
    info.response_code = Some(StatusCode::OK);
    let request = http::Request::builder().header("content-type", "application/grpc+proto");
    let parts = request.body(()).unwrap().into_parts().0;
    let status =
        |value| HeaderMap::from_iter([(grpc::STATUS.clone(), HeaderValue::from_static(value))]);
    let format = Format::parse("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%");
    let format = format.unwrap();
    let eval = |response: Option<&HeaderMap>, trailers: Option<&HeaderMap>| {
        let request = Some(RequestHead::new(&parts, &Scheme::HTTP));
        let cx = Context {
            info: &info,
            request,
            response,
            trailers,
        };
        let mut out = Vec::new();
        write(&format, &cx, Missing::Dash, &mut out);
        String::from_utf8(out).unwrap()
    };
    let (ok, unavailable, odd) = (status("0"), status("14"), status("99"));
    assert_eq!(
        eval(Some(&ok), Some(&unavailable)),
        "Unavailable UNAVAILABLE 14"
    );
    assert_eq!(eval(Some(&ok), None), "OK OK 0");
    assert_eq!(eval(None, Some(&odd)), "99 99 99");
    assert_eq!(eval(None, None), "Unknown UNKNOWN 2");
}

/// The texts name operator and reason.
#[test]
fn bad_formats_are_refused() {
    for (format, part) in [
        ("%", "no command operator"),
        ("a%", "no command operator"),
        ("%foo%", "no command operator"),
        ("%REQ%", "needs a parameter"),
        ("%REQ()%", "needs a parameter"),
        ("%REQ(x%", "missing ')'"),
        ("%REQ(x)", "missing ')' or closing '%'"),
        ("%PROTOCOL", "missing closing '%'"),
        ("%REQ(x):%", "not a number"),
        ("%REQ(x):a%", "not a number"),
        ("%REQ(x):99999999999999999999999%", "too large"),
        ("%REQ(a?b?c)%", "more than one alternative"),
        ("%REQ(a b)%", "not a header name"),
        ("%NOPE%", "unknown command operator"),
        ("%METADATA(ROUTE:x)%", "not supported"),
        ("%FILTER_STATE(x)%", "not supported"),
        ("%CEL(x)%", "not supported"),
        ("%DOWNSTREAM_WIRE_BYTES_SENT%", "not supported"),
        ("%DOWNSTREAM_TLS_VERSION%", "not supported"),
        ("%PROTOCOL(x)%", "takes no parameter"),
        ("%PROTOCOL:3%", "takes no length"),
        ("%START_TIME:3%", "takes no length"),
        ("%GRPC_STATUS(X)%", "CAMEL_STRING"),
        ("%PATH(X)%", "WQ or NQ"),
        ("%PATH(NQ:X)%", "ORIG"),
        ("%QUERY_PARAM%", "needs a parameter"),
        ("%COMMON_DURATION(A:B)%", "not a time point"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%", "precision"),
        ("%REQ(X-A)%REQ(X-B)%", "no command operator"),
        ("%ROUTE_NAME%%", "no command operator"),
    ] {
        let error = Format::parse(format).unwrap_err().to_string();
        assert!(error.contains(part), "{format}: {error}");
    }
}

#[test]
fn needed_headers_are_those_that_are_read() {
    let mut needed = NeededHeaders::default();
    needed.add(&Format::default_access_log());
    let names: Vec<&str> = needed.request.iter().map(HeaderName::as_str).collect();
    let expected = [
        "x-envoy-original-path",
        "x-forwarded-for",
        "user-agent",
        "x-request-id",
        "host",
    ];
    assert_eq!(names, expected);
    assert_eq!(needed.response, ["x-envoy-upstream-service-time"]);
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused(text in "(%|[A-Z_]{1,12}|\\(|\\)|:|[0-9]|\\?|.){0,24}") {
        if let Ok(format) = Format::parse(&text) {
            let mut out = Vec::new();
            let info = info();
            let cx = Context { info: &info, request: None, response: None, trailers: None };
            write(&format, &cx, Missing::Dash, &mut out);
        }
    }

    #[test]
    fn any_time_format_prints_or_is_refused(text in "(%|[a-zA-Z]|[0-9]|-|_|\\^|#|.){0,16}") {
        if let Ok(format) = Format::parse(&format!("%START_TIME({text})%")) {
            let mut out = Vec::new();
            let info = info();
            let cx = Context { info: &info, request: None, response: None, trailers: None };
            write(&format, &cx, Missing::Dash, &mut out);
        }
    }
}
