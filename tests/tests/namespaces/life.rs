//! The end of a pod: nothing more comes in, and the application finishes what it does with others.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::netns::{Injection, port, run};
use outrigger_tests::upstream::{Speaks, TcpHost};
use outrigger_tests::{client, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(10);

/// One word there and back; the first on a connection is answered with the host's name before it.
async fn echoes(stream: &mut TcpStream, answer: &str) -> Result<()> {
    stream.write_all(b"a").await?;
    let mut said = vec![0; answer.len()];
    let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut said)).await;
    read.context("no answer")??;
    ensure!(said == answer.as_bytes(), "{said:?}");
    Ok(())
}

#[test]
fn a_pod_that_ends_takes_nothing_in_and_finishes_what_it_does() {
    run(
        "a_pod_that_ends_takes_nothing_in_and_finishes_what_it_does",
        async |place| {
            let service = place.service("echo", &[port("tcp-echo", 7000)]);
            let (mut ending, mut server) = (place.pod("ending")?, place.pod("echo-0")?);
            place
                .control_plane(&[("echo.yaml", service.yaml(&[&server]))])
                .await?;
            server.inject(&Injection::default()).await?;
            ending
                .inject(&Injection {
                    annotations: vec![("drain-time", "600s".to_owned())],
                    ..Injection::default()
                })
                .await?;
            let _echo = TcpHost::on(server.listen(7000)?, "echo", Speaks::Echo)?;
            let _own = TcpHost::on(ending.listen(7001)?, "own", Speaks::Echo)?;
            let own = SocketAddr::new(ending.ip(false), 7001);
            let mut coming = server.connect(own).await?;
            echoes(&mut coming, "own:a").await?;
            let mut going = ending.connect(service.address(false)).await?;
            echoes(&mut going, "echo:a").await?;

            let mut sidecar = ending.terminate_sidecar()?;
            wait::until("new connections to be refused", DEADLINE, async || {
                let refused = TcpStream::connect(own).await.is_err();
                ensure!(refused, "one is taken");
                Ok(())
            })
            .await?;
            // What was there goes on, and the application still reaches others.
            echoes(&mut coming, "a").await?;
            echoes(&mut going, "a").await?;
            let mut more = ending.connect(service.address(false)).await?;
            echoes(&mut more, "echo:a").await?;
            let kubelet = SocketAddr::new(ending.ip(false), 15021);
            let ready = client::get(kubelet, "/healthz/ready").await?;
            ensure!(ready.text() == "DRAINING\n", "{ready:?}");
            drop((coming, going));
            echoes(&mut more, "a").await?;
            drop(more);
            let status = sidecar.wait(DEADLINE).await?;
            ensure!(status.success(), "{status}: {}", sidecar.log());
            Ok(())
        },
    );
}
