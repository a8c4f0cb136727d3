//! Clients that do not speak HTTP where a port is declared to be HTTP: they fail at once, are counted, and whoever
//! looks for the reason finds it.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::raw::{Step, parse, talk};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::{block_on, wait};
use serde_json::{Value, json};

use crate::kit::{LIMIT, TYPES, wait_for};

async fn start(codec: &str) -> Result<Proxy> {
    let folder = tempfile::tempdir()?;
    let log = |name: &str| {
        json!([{"name": "file", "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": folder.path().join(name),
            "log_format": {"text_format_source": {"inline_string":
                "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %OUTRIGGER_REASON%\n"}},
        }}])
    };
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    let config = json!({
        "admin": {"address": address},
        "static_resources": {"listeners": [{
            "name": "main",
            "address": address,
            "access_log": log("connections"),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": {
                "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "h",
                "codec_type": codec,
                "access_log": log("requests"),
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
                ]}]},
                "http_filters": [{"name": "router", "typed_config": {
                    "@type": format!("{TYPES}.filters.http.router.v3.Router"),
                }}],
            }}]}],
        }]},
    });
    Proxy::start_in(Kind::Outrigger, &config.to_string(), folder, &[]).await
}

async fn wait_line(proxy: &Proxy, file: &str, wanted: &str) -> Result<()> {
    let path = proxy.folder().join(file);
    wait::until(file, LIMIT, async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let last = text.lines().last().context("no line")?;
        ensure!(last == wanted, "{last:?}, not {wanted:?}");
        Ok(())
    })
    .await
}

fn steps(steps: &Value) -> Result<Vec<Step>> {
    Ok(serde_json::from_value(steps.clone())?)
}

#[test]
fn what_is_no_http_fails_with_a_counted_and_named_reason() -> Result<()> {
    block_on(async {
        for codec in ["AUTO", "HTTP1"] {
            let proxy = start(codec).await?;
            let address = proxy.listener("main").await?;
            let other = json!([{"send": "EHLO example.com\r\n"}, "wait_close"]);
            let binary = json!([{"send_hex": "03000000ff0d0a"}, "wait_close"]);
            let tls = json!([{"client_hello": {"name": "a.example.com"}}, "wait_close"]);
            for (count, (said, what)) in (1..).zip([
                (other, "the client does not speak HTTP"),
                (binary, "the client does not speak HTTP"),
                (tls, "the client speaks TLS"),
            ]) {
                let reply = parse(&talk(address, &steps(&said)?, LIMIT).await?);
                let reason = format!("{what}: {address} is declared to be HTTP (listener 'main')");
                ensure!(reply.status == 400, "{reply:?}");
                ensure!(
                    reply.header("x-outrigger-reason") == Some(&reason),
                    "{reply:?}"
                );
                let line = format!("400 DPE http1.codec_error {reason}");
                wait_line(&proxy, "requests", &line).await?;
                wait_line(&proxy, "connections", &format!("0 - - {reason}")).await?;
                wait_for(&proxy, "http.h.downstream_cx_not_http", count).await?;
                wait_for(&proxy, "http.h.downstream_cx_protocol_error", count).await?;
            }
            // What is HTTP and broken is another matter.
            let broken = json!([{"send": "GET / HTTP/1.1\r\nbad header: x\r\n\r\n"}, "wait_close"]);
            let reply = parse(&talk(address, &steps(&broken)?, LIMIT).await?);
            let reason = reply.header("x-outrigger-reason");
            ensure!(reason == Some("the head is not valid HTTP/1"), "{reply:?}");
            // So is what comes after a request.
            let late = json!([
                {"send": "GET / HTTP/1.1\r\nhost: a\r\n\r\n"}, {"wait_for": "200"},
                {"send_hex": "0001020d0a"}, "wait_close",
            ]);
            talk(address, &steps(&late)?, LIMIT).await?;
            wait_for(&proxy, "http.h.downstream_cx_protocol_error", 5).await?;
            wait_for(&proxy, "http.h.downstream_cx_not_http", 3).await?;
            wait_for(&proxy, "http.h.downstream_cx_silent", 0).await?;
        }
        Ok(())
    })
}

#[test]
fn who_waits_for_the_host_to_speak_is_counted() -> Result<()> {
    block_on(async {
        for codec in ["AUTO", "HTTP1"] {
            let proxy = start(codec).await?;
            let address = proxy.listener("main").await?;
            let said = talk(address, &[Step::Finish, Step::WaitClose], LIMIT).await?;
            ensure!(said.is_empty());
            wait_for(&proxy, "http.h.downstream_cx_silent", 1).await?;
            let reason = format!(
                "the client said nothing; perhaps it waits for the host to speak first: {address} is declared to \
                 be HTTP (listener 'main')"
            );
            wait_line(&proxy, "connections", &format!("0 - - {reason}")).await?;
        }
        Ok(())
    })
}

#[test]
fn what_is_no_http2_is_counted_where_only_that_is_spoken() -> Result<()> {
    block_on(async {
        let proxy = start("HTTP2").await?;
        let address = proxy.listener("main").await?;
        let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let said = [Step::Send(request.to_owned()), Step::WaitClose];
        talk(address, &said, LIMIT).await?;
        wait_for(&proxy, "http.h.downstream_cx_not_http", 1).await?;
        let reason = format!(
            "the client does not speak HTTP: {address} is declared to be HTTP (listener 'main')"
        );
        wait_line(&proxy, "connections", &format!("0 - - {reason}")).await
    })
}
