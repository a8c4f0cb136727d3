//! A connection that is cut off on one side.

use anyhow::{Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::raw::{Step, talk};
use outrigger_tests::upstream::{Speaks, TcpHost};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{LIMIT, relay, wait_for};

#[test]
fn a_reset_stays_a_reset_and_what_was_said_before_arrives() -> Result<()> {
    block_on(async {
        let ends = TcpHost::start("ends", Speaks::Ends).await?;
        let proxy = relay(ends.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        let said = |text: &str| Step::WaitFor(text.to_owned());
        let hi = || Step::Send("hi".to_owned());
        talk(address, &[hi(), said("first"), Step::Reset], LIMIT).await?;
        talk(
            address,
            &[hi(), said("reset"), Step::Finish, Step::End],
            LIMIT,
        )
        .await?;
        let end = talk(
            address,
            &[hi(), said("closed"), Step::Finish, Step::End],
            LIMIT,
        )
        .await?;
        ensure!(&*end == b"closed<closed>", "{end:?}");

        // Envoy does not see this one, and keeps the host's connection.
        let hold = Step::Send("hold".to_owned());
        let held = [
            hi(),
            said("closed"),
            hold,
            Step::Finish,
            Step::PauseMs(100),
            Step::Reset,
        ];
        talk(address, &held, LIMIT).await?;
        talk(address, &[hi(), said("reset")], LIMIT).await?;

        // Envoy takes the answer back with the reset.
        let answers = TcpHost::start("answers", Speaks::AnswersAndResets).await?;
        let proxy = relay(answers.address(), json!({})).await?;
        let address = proxy.listener("main").await?;
        for bytes in [2, 10_000_000] {
            let many = Step::SendMany {
                text: "x".to_owned(),
                times: bytes,
            };
            let end = talk(address, &[many, Step::End], LIMIT).await?;
            let expected = format!("{}<reset>", "answers:".repeat(1000));
            let end = String::from_utf8_lossy(&end);
            ensure!(
                end == expected,
                "after {bytes}: {} bytes, {:?}",
                end.len(),
                end.get(end.len().saturating_sub(20)..)
            );
        }
        wait_for(&proxy, "cluster.host.upstream_cx_destroy_remote", 2).await?;
        wait_for(&proxy, "cluster.host.upstream_cx_active", 0).await
    })
}

#[test]
fn a_transfer_that_is_cut_off_does_not_look_whole() -> Result<()> {
    const SENT: usize = 20_000_000;
    block_on(async {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = relay(host.local_addr()?, json!({})).await?;
        let address = proxy.listener("main").await?;
        // So much that it is spliced; whichever side is cut off, the other is told.
        for host_sends in [true, false] {
            let mut client = TcpStream::connect(address).await?;
            client.write_all(b"hi").await?;
            let (mut inner, _) = host.accept().await?;
            let (sender, receiver) = match host_sends {
                true => (&mut inner, &mut client),
                false => (&mut client, &mut inner),
            };
            let mut received = Vec::new();
            let send = async {
                sender.write_all(&vec![7; SENT]).await?;
                sender.set_zero_linger()
            };
            let mut first = vec![0; SENT - 50_000];
            let (sent, half) = tokio::join!(send, receiver.read_exact(&mut first));
            sent?;
            half?;
            let (cut, whole) = match host_sends {
                true => (inner, client),
                false => (client, inner),
            };
            drop(cut);
            let mut receiver = whole;
            let read = tokio::time::timeout(LIMIT, receiver.read_to_end(&mut received)).await?;
            let error = read.err().map(|error| error.kind());
            ensure!(
                error == Some(std::io::ErrorKind::ConnectionReset),
                "{} bytes, then {error:?}",
                first.len() + received.len()
            );
        }
        wait_for(&proxy, "cluster.host.upstream_cx_active", 0).await?;
        wait_for(&proxy, "listener.main.downstream_cx_active", 0).await
    })
}
