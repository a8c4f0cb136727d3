//! Connections as such: halves that close one by one, long silence, much data.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use outrigger_tests::netns::{Nginx, installed, port, run};
use outrigger_tests::upstream::{Speaks, TcpHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{passes_both, start, to_end};

#[test]
fn either_half_may_close_first() {
    run("either_half_may_close_first", async |place| {
        let ports = [port("tcp-last", 7001), port("tcp-first", 7002)];
        let service = place.service("halves", &ports);
        let (mut client, mut server) = (place.pod("client")?, place.pod("halves-0")?);
        let objects = [service.yaml(&[&server])];
        start(place, &objects, &mut [&mut client, &mut server]).await?;
        let _last = TcpHost::on(server.listen(7001)?, "last", Speaks::Last)?;
        let _first = TcpHost::on(server.listen(7002)?, "first", Speaks::Closes)?;
        for is_v6 in [false, true] {
            let mut address = service.address(is_v6);
            passes_both(&client, &server, "halves", 7001, async || {
                let mut stream = client.connect(address).await?;
                stream.write_all(b"12345").await?;
                stream.shutdown().await?;
                let said = to_end(&mut stream).await?;
                ensure!(said == "last: 5 bytes", "{said}");
                Ok(())
            })
            .await?;
            address.set_port(7002);
            passes_both(&client, &server, "halves", 7002, async || {
                let mut stream = client.connect(address).await?;
                let said = to_end(&mut stream).await?;
                ensure!(said == "first:", "{said}");
                // The other half is still open: nobody resets what goes on.
                for _ in 0..20 {
                    stream.write_all(&[b'x'; 64 * 1024]).await?;
                }
                stream.shutdown().await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn silent_connections_last() {
    run("silent_connections_last", async |place| {
        let ports = [port("tcp-echo", 7000), port("plain", 7003)];
        let service = place.service("echo", &ports);
        let (mut client, mut server) = (place.pod("client")?, place.pod("echo-0")?);
        let objects = [service.yaml(&[&server])];
        start(place, &objects, &mut [&mut client, &mut server]).await?;
        let _declared = TcpHost::on(server.listen(7000)?, "echo", Speaks::Echo)?;
        let _learned = TcpHost::on(server.listen(7003)?, "echo", Speaks::Echo)?;
        let mut streams = Vec::new();
        for number in [7000, 7003] {
            let mut address = service.address(false);
            address.set_port(number);
            for _ in 0..20 {
                let mut stream = client.connect(address).await?;
                stream.write_all(b"a").await?;
                let mut said = [0; 6];
                let read = stream.read_exact(&mut said);
                let read = tokio::time::timeout(Duration::from_secs(5), read).await;
                read.with_context(|| format!("{number}, connection {}", streams.len()))??;
                ensure!(&said == b"echo:a", "{said:?}");
                streams.push(stream);
            }
        }
        // Changes of the mesh come and go meanwhile.
        let mesh = place.mesh()?;
        let other = service.yaml(&[]).replace("name: echo", "name: other");
        let other = other
            .replace("10.96.0.", "10.97.0.")
            .replace("fd96::", "fd97::");
        mesh.edit("other.yaml", &other).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for stream in &mut streams {
            stream.write_all(b"b").await?;
            let mut said = [0; 1];
            tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut said)).await??;
            ensure!(&said == b"b", "{said:?}");
        }
        Ok(())
    });
}

/// Of random bytes, by HTTP and as bytes, without a change.
#[test]
fn a_gibibyte_arrives_as_it_was() {
    const NAME: &str = "a_gibibyte_arrives_as_it_was";
    if !installed(NAME, &["curl", "nginx", "b2sum"]) {
        return;
    }
    run(NAME, async |place| {
        let ports = [port("tcp-raw", 8080), port("http", 8081).to(8080)];
        let web = place.service("web", &ports);
        let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
        let objects = [web.yaml(&[&server])];
        start(place, &objects, &mut [&mut client, &mut server]).await?;
        let nginx = Nginx::start(&server, 8080, "web").await?;
        let file = nginx.file("big").display().to_string();
        let make =
            format!("head -c 1073741824 /dev/urandom | tee {file} | b2sum; chmod 644 {file}");
        let (_, sum) = client.run_for(&["bash", "-c", &make], LONG).await?;
        for (number, port) in [(8080, 8080), (8081, 8080)] {
            let get = format!("set -o pipefail; curl -sS http://web:{number}/big | b2sum");
            let before = server.stat(&format!(
                "cluster.inbound|{port}||.upstream_cx_rx_bytes_total"
            ))?;
            let (code, said) = client.run_for(&["bash", "-c", &get], LONG).await?;
            ensure!(
                code == 0 && said == sum,
                "{number}: {said} instead of {sum}"
            );
            let after = server.stat(&format!(
                "cluster.inbound|{port}||.upstream_cx_rx_bytes_total"
            ))?;
            ensure!(after - before >= 1 << 30, "{number}: {before} to {after}");
        }
        Ok(())
    });
}

const LONG: Duration = Duration::from_secs(120);
