//! A sidecar that is killed, and the control plane too: clients notice as they would with a machine of the way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::netns::{Nginx, Pod, installed, port, run};
use outrigger_tests::upstream::{Speaks, TcpHost};
use outrigger_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::start;

async fn who(client: &Pod) -> Result<()> {
    let said = client
        .say(&["curl", "-sS", "-m", "5", "http://web:8080/who"])
        .await?;
    ensure!(said.starts_with("web "), "{said}");
    Ok(())
}

#[test]
fn a_killed_sidecar_comes_back() {
    const NAME: &str = "a_killed_sidecar_comes_back";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let ports = [port("http", 8080), port("tcp-echo", 7000)];
        let web = place.service("web", &ports);
        let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
        let objects = [web.yaml(&[&server])];
        start(place, &objects, &mut [&mut client, &mut server]).await?;
        let _nginx = Nginx::start(&server, 8080, "web").await?;
        let _echo = TcpHost::on(server.listen(7000)?, "echo", Speaks::Echo)?;
        who(&client).await?;

        for side in ["client", "server"] {
            let mut address = web.address(false);
            address.set_port(7000);
            let mut stream = client.connect(address).await?;
            stream.write_all(b"a").await?;
            let mut said = [0; 6];
            stream.read_exact(&mut said).await?;

            let killed = if side == "client" {
                &mut client
            } else {
                &mut server
            };
            killed.kill_sidecar().await?;
            // The connection ends, by a reset or by its end.
            let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut said)).await;
            let end = end.with_context(|| format!("{side}: the connection goes on"))?;
            ensure!(!matches!(end, Ok(read) if read > 0), "{side}: {end:?}");
            // Nobody slips by.
            ensure!(who(&client).await.is_err(), "{side}: without its sidecar");

            let killed = if side == "client" {
                &mut client
            } else {
                &mut server
            };
            killed.restart_sidecar().await?;
            place.mesh()?.in_sync(2).await?;
            wait::until("calls to work again", Duration::from_secs(10), async || {
                who(&client).await
            })
            .await
            .with_context(|| side)?;
        }
        Ok(())
    });
}

#[test]
fn nothing_needs_the_control_plane() {
    const NAME: &str = "nothing_needs_the_control_plane";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let web = place.service("web", &[port("http", 8080)]);
        let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
        let objects = [web.yaml(&[&server])];
        start(place, &objects, &mut [&mut client, &mut server]).await?;
        let _nginx = Nginx::start(&server, 8080, "web").await?;
        let mesh = place.mesh_mut()?;
        mesh.kill().await?;
        who(&client).await?;
        mesh.restart().await?;
        mesh.in_sync(2).await?;
        who(&client).await
    });
}
