//! What the node asks an injected pod for: its probes, past the rules that give everything else to the sidecar.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::ensure;
use outrigger_tests::client;
use outrigger_tests::netns::{Injection, run};
use outrigger_tests::upstream::{Speaks, TcpHost};
use serde_json::json;

use crate::kit::by_hand;

#[test]
fn the_kubelet_reaches_applications_wherever_they_listen() {
    run(
        "the_kubelet_reaches_applications_wherever_they_listen",
        async |place| {
            let mut pod = place.pod("web")?;
            let probe = |port: u16| json!({"tcpSocket": {"port": port}});
            pod.inject(&Injection {
                container: json!({
                    "livenessProbe": probe(7000),
                    "readinessProbe": probe(7001),
                    "startupProbe": probe(7002),
                }),
                ..by_hand(7000)
            })
            .await?;
            let at_loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 7000));
            let _loopback = TcpHost::on(pod.listen_at(at_loopback)?, "loopback", Speaks::Last)?;
            let own = SocketAddr::new(pod.ip(false), 7001);
            let _own = TcpHost::on(pod.listen_at(own)?, "own", Speaks::Last)?;
            for ip in pod.ips() {
                let kubelet = SocketAddr::new(*ip, 15021);
                for (page, status) in [("livez", 200), ("readyz", 200), ("startupz", 503)] {
                    let page = format!("/app-health/app/{page}");
                    let reply = client::get(kubelet, &page).await?;
                    ensure!(reply.status == status, "{ip} {page}: {}", reply.text());
                }
                let metrics = SocketAddr::new(*ip, 15090);
                let reply = client::get(metrics, "/stats/prometheus").await?;
                ensure!(reply.text().contains("envoy_server_live{} 1"), "{ip}");
            }
            Ok(())
        },
    );
}
