//! Ports that say nothing of what is spoken there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use outrigger_tests::mesh::objects;
use outrigger_tests::netns::{Nginx, Redis, Smtp, installed, port, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{passes_both, start};

#[test]
fn http_on_an_undeclared_port_is_still_http() {
    const NAME: &str = "http_on_an_undeclared_port_is_still_http";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let front = place.service("front", &[port("", 8080)]);
        let web = place.service("web", &[port("", 8080)]);
        let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
        let route = objects::split("front", &[("web", 1)]).replace("port: 80,", "port: 8080,");
        let all = [front.yaml(&[]), web.yaml(&[&server]), route];
        start(place, &all, &mut [&mut client, &mut server]).await?;
        let _nginx = Nginx::start(&server, 8080, "web").await?;
        // By a route, which only a request has.
        let said = passes_both(&client, &server, "web", 8080, async || {
            client.say(&["curl", "-sS", "http://front:8080/who"]).await
        })
        .await?;
        // The sidecars have named the request.
        let id = said.split_whitespace().nth(3).context("no request id")?;
        ensure!(id.len() == 36, "{said}");
        ensure!(
            client.stat("cluster.outbound|8080||web.shop.svc.cluster.local.upstream_rq_2xx")? == 1
        );
        ensure!(server.stat("cluster.inbound|8080||.upstream_rq_2xx")? == 1);
        place.mesh()?.jaeger("services").await?;
        outrigger_tests::wait::until("spans", outrigger_tests::mesh::DEADLINE, async || {
            let services = place.mesh()?.jaeger("services").await?.to_string();
            ensure!(
                services.contains("client.shop") && services.contains("web-0.shop"),
                "{services}"
            );
            Ok(())
        })
        .await
    });
}

#[test]
fn other_protocols_on_undeclared_ports_are_relayed() {
    const NAME: &str = "other_protocols_on_undeclared_ports_are_relayed";
    if !installed(NAME, &["redis-server", "redis-cli", "curl"]) {
        return;
    }
    run(NAME, async |place| {
        let cache = place.service("cache", &[port("", 6379)]);
        let mail = place.service("mail", &[port("", 2525)]);
        let mut client = place.pod("client")?;
        let (mut store, mut post) = (place.pod("cache-0")?, place.pod("mail-0")?);
        let all = [cache.yaml(&[&store]), mail.yaml(&[&post])];
        start(place, &all, &mut [&mut client, &mut store, &mut post]).await?;
        let _redis = Redis::start(&store).await?;
        let smtp = Smtp::start(post.listen(2525)?);
        let said = passes_both(&client, &store, "cache", 6379, async || {
            client.say(&["redis-cli", "-h", "cache", "ping"]).await
        })
        .await?;
        ensure!(said == "PONG\n", "{said}");
        // The server speaks first: the client waits for it and says nothing.
        for count in 1..=3 {
            let start = Instant::now();
            passes_both(&client, &post, "mail", 2525, async || {
                let mut stream = client.connect(mail.address(false)).await?;
                let mut greeting = [0; 4];
                let read = stream.read_exact(&mut greeting);
                tokio::time::timeout(Duration::from_secs(5), read).await??;
                ensure!(&greeting == b"220 ", "{greeting:?}");
                let took = start.elapsed();
                stream.write_all(b"DATA\r\nhello\r\n.\r\nQUIT\r\n").await?;
                let said = crate::to_end(&mut stream).await?;
                ensure!(said.ends_with("221 bye\r\n"), "{said}");
                ensure!(took < Duration::from_secs(2), "{took:?}");
                Ok(())
            })
            .await?;
            ensure!(smtp.mails().len() == count);
        }
        Ok(())
    });
}

#[test]
fn other_protocols_on_an_http_port_fail_with_a_reason() {
    run(
        "other_protocols_on_an_http_port_fail_with_a_reason",
        async |place| {
            let web = place.service("web", &[port("http", 8080)]);
            let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
            let all = [web.yaml(&[&server])];
            start(place, &all, &mut [&mut client, &mut server]).await?;
            let mut stream = client.connect(web.address(false)).await?;
            stream
                .write_all(b"\x00\x01\x02\x03 binary \xff\r\n\r\n")
                .await?;
            let said = crate::to_end(&mut stream).await?;
            ensure!(said.starts_with("HTTP/1.1 400 "), "{said}");
            let stats = client.stats()?;
            let counted = stats
                .iter()
                .any(|(name, count)| name.ends_with("downstream_cx_protocol_error") && *count > 0);
            ensure!(counted, "{stats:#?}");
            Ok(())
        },
    );
}
