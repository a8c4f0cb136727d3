//! Circuit breakers and bulkheads act for clients that know nothing of them.

use anyhow::{Result, ensure};
use outrigger_tests::netns::{Pod, installed, port, run};
use outrigger_tests::upstream::{Script, Upstream};

use crate::start;

/// Many requests at once; gives how many had each status, and a reason.
async fn burst(client: &Pod, count: usize) -> Result<(usize, usize, String)> {
    let config = "url = http://slow:8080/\n".repeat(count);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config)?;
    let path = file.path().display().to_string();
    let format = "\\n%{http_code} %header{x-outrigger-reason}\\n";
    let words = [
        "curl",
        "-sS",
        "-Z",
        "--parallel-immediate",
        "-w",
        format,
        "-K",
        &path,
    ];
    let (_, said) = client.run(&words).await?;
    let of = |status: &str| said.lines().filter(|line| line.starts_with(status)).count();
    let reason = said.lines().find_map(|line| line.strip_prefix("503 "));
    Ok((
        of("200 "),
        of("503 "),
        reason.unwrap_or_default().to_owned(),
    ))
}

fn policy(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1
kind: {kind}
metadata: {{name: slow, namespace: shop}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: slow}}]
{spec}"
    )
}

#[test]
fn limits_protect_what_curl_calls() {
    const NAME: &str = "limits_protect_what_curl_calls";
    if !installed(NAME, &["curl"]) {
        return;
    }
    run(NAME, async |place| {
        let slow = place.service("slow", &[port("http", 8080)]);
        let (mut client, mut server) = (place.pod("client")?, place.pod("slow-0")?);
        let all = [slow.yaml(&[&server])];
        start(place, &all, &mut [&mut client, &mut server]).await?;
        let script = Script {
            delay_ms: 500,
            ..Script::default()
        };
        let _slow = Upstream::on(server.listen(8080)?, "slow", Some(script))?;
        let mesh = place.mesh()?;
        let (served, refused, reason) = burst(&client, 12).await?;
        ensure!((served, refused) == (12, 0), "{served} {refused} {reason}");

        let breaker = policy(
            "TrafficPolicy",
            "  circuitBreaker: {maxRequests: 3}\n  retries: {attempts: 0}\n",
        );
        mesh.edit("policy.yaml", &breaker).await?;
        let (served, refused, reason) = burst(&client, 12).await?;
        ensure!(
            served >= 3 && refused >= 6 && served + refused == 12,
            "{served} {refused}"
        );
        ensure!(
            reason.contains("max_requests=3") && reason.contains("TrafficPolicy/shop/slow"),
            "{reason}"
        );

        let bulkhead = policy(
            "Bulkhead",
            "  maxConcurrent: 2\n  maxQueued: 2\n  queueTimeout: 5s\n",
        );
        mesh.edit("policy.yaml", &bulkhead).await?;
        let (served, refused, reason) = burst(&client, 12).await?;
        ensure!(
            served >= 4 && refused >= 6 && served + refused == 12,
            "{served} {refused}"
        );
        ensure!(
            reason.contains("bulkhead") && reason.contains("Bulkhead/shop/slow"),
            "{reason}"
        );
        Ok(())
    });
}
