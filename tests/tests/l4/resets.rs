//! A connection that is cut off on one side.

use anyhow::{Result, ensure};
use outrigger_tests::block_on;
use outrigger_tests::client::raw::{Step, talk};
use outrigger_tests::upstream::{Speaks, TcpHost};
use serde_json::json;

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
