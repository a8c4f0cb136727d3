//! Who an application sees as its client, and how the client sees the service.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::netns::{Injection, Mode, Nginx, Place, Pod, installed, port, run};

use crate::{passes_both, start_as};

/// Calls a service by each of its addresses and its pod by each of its own; gives the client, and for each call
/// the address that the server saw.
async fn calls(place: &mut Place, mode: Mode) -> Result<(Pod, Vec<IpAddr>)> {
    let web = place.service("web", &[port("http", 8080)]);
    let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
    let objects = [web.yaml(&[&server])];
    let injection = Injection {
        mode,
        ..Injection::default()
    };
    start_as(place, &objects, &mut [&mut client, &mut server], &injection).await?;
    let _nginx = Nginx::start(&server, 8080, "web").await?;
    let mut seen = Vec::new();
    for host in ["web", "web-v6"] {
        let url = format!("http://{host}:8080/who");
        let said = passes_both(&client, &server, "web", 8080, async || {
            client.say(&["curl", "-sS", &url]).await
        })
        .await?;
        let from = said.split(' ').nth(1).unwrap_or_default();
        seen.push(from.parse().with_context(|| said.clone())?);
    }
    // What no service leads to arrives, too.
    let listener = server.listen(8081)?;
    for ip in server.ips() {
        let (connected, accepted) =
            tokio::join!(client.connect((*ip, 8081).into()), listener.accept());
        connected?;
        seen.push(accepted?.1.ip().to_canonical());
    }
    Ok((client, seen))
}

#[test]
fn with_redirect_it_is_the_sidecar() {
    const NAME: &str = "with_redirect_it_is_the_sidecar";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let (_, seen) = calls(place, Mode::Redirect).await?;
        let sidecar: [IpAddr; 2] = ["127.0.0.6".parse()?, "::6".parse()?];
        ensure!(
            seen.iter().all(|from| sidecar.contains(from)) && seen[2..] == sidecar,
            "{seen:?}"
        );
        Ok(())
    });
}

#[test]
fn with_tproxy_it_is_the_client() {
    const NAME: &str = "with_tproxy_it_is_the_client";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let (client, seen) = calls(place, Mode::Tproxy).await?;
        ensure!(
            seen.iter().all(|from| client.ips().contains(from)) && seen[2..] == *client.ips(),
            "{seen:?}"
        );
        Ok(())
    });
}
