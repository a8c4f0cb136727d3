//! What does not go to a sidecar, where connections to nowhere in the mesh go, and a pod that calls itself.

use anyhow::{Result, ensure};
use outrigger_tests::netns::{Injection, Nginx, Place, Pod, installed, port, run};

use crate::{by_sidecar, inbound, passes_both, sent, start, start_as};

/// nginx in a pod that the mesh knows nothing of.
async fn stranger(place: &mut Place) -> Result<(Pod, Nginx)> {
    let pod = place.pod("stranger")?;
    let nginx = Nginx::start(&pod, 8080, "stranger").await?;
    Ok((pod, nginx))
}

#[test]
fn excluded_ports_and_users_keep_their_connections() {
    const NAME: &str = "excluded_ports_and_users_keep_their_connections";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let web = place.service("web", &[port("http", 8080)]);
        let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
        let injection = Injection {
            annotations: vec![
                ("exclude-outbound-ports", "9000".to_owned()),
                ("exclude-inbound-ports", "9000".to_owned()),
                ("exclude-outbound-users", "1001".to_owned()),
            ],
            ..Injection::default()
        };
        let objects = [web.yaml(&[&server])];
        let pods = &mut [&mut client, &mut server];
        start_as(place, &objects, pods, &injection).await?;
        let _web = Nginx::start(&server, 8080, "web").await?;
        let _other = Nginx::start(&server, 9000, "other").await?;

        let all = |pod: &Pod| {
            let stats = pod.stats()?;
            let connections = stats.iter().filter(|(name, _)| {
                name.starts_with("listener.0.0.0.0_150") && name.ends_with("downstream_cx_total")
            });
            anyhow::Ok(connections.map(|(_, count)| count).sum::<u64>())
        };
        let ip = server.ip(false);
        let before = [all(&client)?, all(&server)?];
        let said = client
            .say(&["curl", "-sS", &format!("http://{ip}:9000/who")])
            .await?;
        let own = client.ip(false);
        ensure!(said.starts_with(&format!("other {own} ")), "{said}");
        let after = [all(&client)?, all(&server)?];
        ensure!(after == before, "{before:?} {after:?}");

        // Nobody's rule applies to that user: only the server's sidecar sees the connection.
        let words = [
            "setpriv",
            "--reuid",
            "1001",
            "--clear-groups",
            "curl",
            "-sS",
        ];
        let url = format!("http://{ip}:8080/who");
        let said = client.say(&[words.as_slice(), &[&url]].concat()).await?;
        ensure!(by_sidecar(&said)?.0 == "web", "{said}");
        ensure!(
            all(&client)? == before[0] && sent(&server, &inbound(8080))? > 0,
            "{before:?}"
        );
        // And it finds no service, since nobody answers at its address.
        let url = ["-m", "1", "http://web:8080/who"];
        let (code, said) = client.run(&[words.as_slice(), &url].concat()).await?;
        ensure!(code != 0, "{said}");
        Ok(())
    });
}

#[test]
fn strangers_are_reached_if_that_is_allowed() {
    const NAME: &str = "strangers_are_reached_if_that_is_allowed";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let web = place.service("web", &[port("http", 8080)]);
        let (mut free, mut bound) = (place.pod("free")?, place.pod("bound")?);
        let mut server = place.pod("web-0")?;
        let objects = [web.yaml(&[&server])];
        start(place, &objects, &mut [&mut free, &mut server]).await?;
        let registry_only = Injection {
            annotations: vec![("outbound-policy", "registry-only".to_owned())],
            ..Injection::default()
        };
        bound.inject(&registry_only).await?;
        place.mesh()?.in_sync(3).await?;
        let (stranger, _nginx) = stranger(place).await?;
        let _web = Nginx::start(&server, 8080, "web").await?;

        for is_v6 in [false, true] {
            let url = format!(
                "http://{}/who",
                std::net::SocketAddr::new(stranger.ip(is_v6), 8080)
            );
            let own = free.ip(is_v6);
            let said = free.say(&["curl", "-sS", "-g", &url]).await?;
            ensure!(said.starts_with(&format!("stranger {own} ")), "{said}");
            let (code, said) = bound.run(&["curl", "-sS", "-g", "-m", "5", &url]).await?;
            // An empty reply or a reset, at once.
            ensure!([52, 56].contains(&code), "{code}: {said}");
        }
        ensure!(sent(&free, "PassthroughCluster")? >= 2);
        ensure!(sent(&bound, "PassthroughCluster")? == 0);
        // Services are not strangers.
        let said = bound.say(&["curl", "-sS", "http://web:8080/who"]).await?;
        ensure!(by_sidecar(&said)? == ("web", "web"), "{said}");
        // Where nobody listens, the client is told so by the end of its connection.
        let url = format!(
            "http://{}/",
            std::net::SocketAddr::new(stranger.ip(false), 1)
        );
        let (code, said) = free.run(&["curl", "-sS", "-m", "10", &url]).await?;
        ensure!([52, 56].contains(&code), "{code}: {said}");
        Ok(())
    });
}

#[test]
fn a_pod_calls_its_own_service() {
    const NAME: &str = "a_pod_calls_its_own_service";
    if !installed(NAME, &["curl", "nginx", "redis-server", "redis-cli"]) {
        return;
    }
    run(NAME, async |place| {
        let ports = [port("http", 8080), port("redis", 6379)];
        let service = place.service("self", &ports);
        let mut pod = place.pod("self-0")?;
        let objects = [service.yaml(&[&pod])];
        start(place, &objects, &mut [&mut pod]).await?;
        let _nginx = Nginx::start(&pod, 8080, "self").await?;
        let _redis = outrigger_tests::netns::Redis::start(&pod).await?;
        for host in ["self", "self-v6"] {
            let url = format!("http://{host}:8080/who");
            let said = passes_both(&pod, &pod, "self", 8080, async || {
                pod.say(&["curl", "-sS", &url]).await
            })
            .await?;
            ensure!(said.starts_with("self "), "{said}");
        }
        let said = passes_both(&pod, &pod, "self", 6379, async || {
            pod.say(&["redis-cli", "-h", "self", "ping"]).await
        })
        .await?;
        ensure!(said == "PONG\n", "{said}");
        // By its own address, or over loopback, it is a matter of the pod alone.
        let before = sent(&pod, &inbound(8080))?;
        for host in [pod.ip(false).to_string(), "127.0.0.1".to_owned()] {
            let url = format!("http://{host}:8080/who");
            let said = pod.say(&["curl", "-sS", &url]).await?;
            ensure!(said.starts_with(&format!("self {host} ")), "{said}");
        }
        ensure!(sent(&pod, &inbound(8080))? == before);
        Ok(())
    });
}
