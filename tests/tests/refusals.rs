//! Requests that never reach a filter: the answer is ours all the same, and says why.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::raw::{Step, parse, talk};
use outrigger_tests::client::{Http2, Request};
use outrigger_tests::proxy::{Kind, Proxy};
use serde_json::json;

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";

/// What is sent, the status, and what the reason says.
const CASES: [(&str, u16, &str); 14] = [
    ("NONSENSE\r\n\r\n", 400, "does not speak HTTP"),
    ("GET / HTTP/1.1\r\n\r\n", 400, "no host header"),
    ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", 426, "accept_http_10"),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n",
        400,
        "not valid HTTP/1",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        400,
        "host more than once",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        400,
        "host with characters",
    ),
    ("BREW / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "unknown method"),
    (
        "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "request target",
    ),
    (
        "GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "path_with_escaped_slashes_action",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nx_y: z\r\n\r\n",
        400,
        "underscore",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n",
        431,
        "max_headers_count=4",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-for\r\n\r\n",
        400,
        "connection names",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "content-length beside transfer-encoding",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        501,
        "transfer-encoding",
    ),
];

#[test]
fn refusals_of_the_codec_say_why() {
    let run = async {
        let proxy = Proxy::start(Kind::Outrigger, &config()).await?;
        let main = proxy.listener("main").await?;
        for (sent, status, says) in CASES {
            let steps = [Step::Send(sent.to_owned()), Step::WaitClose];
            let received = talk(main, &steps, Duration::from_secs(10)).await?;
            let reply = parse(&received);
            let reason = reply.header("x-outrigger-reason").unwrap_or_default();
            ensure!(
                reply.status == status && reason.contains(says),
                "{sent:?}: {}",
                String::from_utf8_lossy(&received)
            );
        }
        let mut client = Http2::connect(main).await?;
        let request = Request::new("GET", "/").header("x_y", "z");
        let reply = client.send(request).await.context("over HTTP/2")?;
        let reason = reply.header("x-outrigger-reason").unwrap_or_default();
        ensure!(
            reply.status == 400 && reason.contains("underscore"),
            "{reply:?}"
        );
        anyhow::Ok(())
    };
    let done: Result<()> = block_on(run);
    if let Err(error) = done {
        panic!("{error:#}");
    }
}

fn config() -> String {
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [{
            "name": "main",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
                    "stat_prefix": "main",
                    "delayed_close_timeout": "0s",
                    "path_with_escaped_slashes_action": "REJECT_REQUEST",
                    "common_http_protocol_options": {
                        "max_headers_count": 4,
                        "headers_with_underscores_action": "REJECT_REQUEST",
                    },
                    "route_config": {"name": "main", "virtual_hosts": [{
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 204}}],
                    }]},
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": format!("{TYPES}.http.router.v3.Router")},
                    }],
                },
            }]}],
        }]},
    })
    .to_string()
}
