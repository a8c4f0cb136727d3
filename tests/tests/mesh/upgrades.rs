//! WebSocket passes the sidecars at both ends.

use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_tests::client::raw::{self, Step};
use outrigger_tests::mesh::{ControlPlane, Sidecar, listening, objects, ports};
use outrigger_tests::proxy::Kind;
use outrigger_tests::upstream::RawUpstream;

use crate::run;

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const HANDSHAKE: &str =
    "GET /chat HTTP/1.1\r\nhost: chat\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_websocket_passes_both_sidecars() {
    for kind in [Kind::Outrigger, Kind::Envoy] {
        run(websocket(kind));
    }
}

/// The caller's sidecar is ours, the other one of the kind.
async fn websocket(kind: Kind) -> Result<()> {
    let app = RawUpstream::start_with(SWITCH.to_owned(), true).await?;
    let inbound = ports::reserve()?;
    let service = objects::service("chat", &[inbound]);
    let control_plane = ControlPlane::start(&[("service.yaml", service)]).await?;
    let mut served = Sidecar::new(kind, true, "chat").inbound(inbound, app.address());
    let mut calling = Sidecar::new(Kind::Outrigger, true, "caller").outbound();
    served.start(&control_plane).await?;
    calling.start(&control_plane).await?;
    control_plane.in_sync(2).await?;
    listening(inbound).await?;
    let text = "message after message ".to_owned();
    let steps = [
        Step::Send(HANDSHAKE.to_owned()),
        Step::WaitFor("\r\n\r\n".to_owned()),
        Step::SendMany {
            text,
            times: 20_000,
        },
        Step::Send("the last".to_owned()),
        Step::WaitFor("the last".to_owned()),
    ];
    let address = calling.outbound_address().await?;
    let received = raw::talk(address, &steps, SOON).await?;
    let received = String::from_utf8_lossy(&received);
    ensure!(received.starts_with("HTTP/1.1 101"), "{received}");
    ensure!(received.matches("message after").count() == 20_000);
    for sidecar in [&calling, &served] {
        let stats = sidecar.proxy()?.stats().await?;
        let upgrades: u64 = stats
            .iter()
            .filter(|(name, _)| name.ends_with(".downstream_cx_upgrades_total"))
            .map(|(_, count)| count)
            .sum();
        ensure!(upgrades == 1, "{upgrades} upgrades at {}", sidecar.id());
    }
    Ok(())
}
