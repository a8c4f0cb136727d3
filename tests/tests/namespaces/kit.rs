//! Pods whose sidecars have a configuration by hand: all goes on to where it was going.

use anyhow::{Result, ensure};
use outrigger_tests::netns::{Injection, Nginx, Place, Pod, Smtp, installed, run};
use outrigger_tests::upstream::{Speaks, TcpHost};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::to_end;

fn listener(name: &str, address: &str, port: u16, cluster: &str) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": address, "port_value": port}},
        "use_original_dst": true,
        "listener_filters": [{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"},
        }],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": cluster,
            },
        }]}],
    })
}

/// What is inbound goes to one port of the pod, since the other end of a loop would be the sidecar again.
pub(crate) fn by_hand(port: u16) -> Injection {
    let mut listeners = Vec::new();
    for (family, any) in [("v4", "0.0.0.0"), ("v6", "::")] {
        listeners.push(listener(
            &format!("out-{family}"),
            any,
            15001,
            "PassthroughCluster",
        ));
        listeners.push(listener(&format!("in-{family}"), any, 15006, "app"));
    }
    Injection {
        static_resources: Some(json!({
            "listeners": listeners,
            "clusters": [
                {"name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
                {
                    "name": "app",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "app",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                            "socket_address": {"address": "127.0.0.1", "port_value": port},
                        }}}]}],
                    },
                },
            ],
        })),
        ..Injection::default()
    }
}

async fn pods(place: &mut Place, port: u16) -> Result<(Pod, Pod)> {
    let (mut client, mut server) = (place.pod("client")?, place.pod("server")?);
    for pod in [&mut client, &mut server] {
        pod.inject(&by_hand(port)).await?;
    }
    Ok((client, server))
}

#[test]
fn a_pod_reaches_another_through_both_sidecars() {
    const NAME: &str = "a_pod_reaches_another_through_both_sidecars";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let (client, server) = pods(place, 8080).await?;
        let _nginx = Nginx::start(&server, 8080, "web").await?;
        for (family, is_v6) in [("v4", false), ("v6", true)] {
            let url = match server.ip(is_v6) {
                ip if is_v6 => format!("http://[{ip}]:8080/who"),
                ip => format!("http://{ip}:8080/who"),
            };
            let said = client.say(&["curl", "-sS", "-g", &url]).await?;
            ensure!(said.starts_with("web 127.0.0.1 "), "{said}");
            let seen = [
                client.stat(&format!("tcp.out-{family}.downstream_cx_total"))?,
                server.stat(&format!("tcp.in-{family}.downstream_cx_total"))?,
            ];
            ensure!(seen.iter().all(|count| *count > 0), "{family}: {seen:?}");
        }
        Ok(())
    });
}

#[test]
fn servers_may_speak_first() {
    run("servers_may_speak_first", async |place| {
        let (client, server) = pods(place, 2525).await?;
        let smtp = Smtp::start(server.listen(2525)?);
        let mut stream = client.connect((server.ip(false), 2525).into()).await?;
        let mail = b"EHLO a\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n";
        stream.write_all(mail).await?;
        stream.shutdown().await?;
        let said = to_end(&mut stream).await?;
        ensure!(
            said.starts_with("220 ") && said.ends_with("221 bye\r\n"),
            "{said}"
        );
        ensure!(smtp.mails() == ["hello\r\n"], "{:?}", smtp.mails());
        Ok(())
    });
}

#[test]
fn halves_close_one_by_one() {
    run("halves_close_one_by_one", async |place| {
        let (client, server) = pods(place, 7000).await?;
        let _last = TcpHost::on(server.listen(7000)?, "last", Speaks::Last)?;
        for ip in server.ips() {
            let mut stream = client.connect((*ip, 7000).into()).await?;
            stream.write_all(b"12345").await?;
            stream.shutdown().await?;
            let said = to_end(&mut stream).await?;
            ensure!(said == "last: 5 bytes", "{said}");
        }
        Ok(())
    });
}
