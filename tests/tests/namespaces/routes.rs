//! HTTP of clients that know only a service's name: by weight, with traces, also in cleartext HTTP/2.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::mesh::objects;
use outrigger_tests::netns::{Nginx, Pod, installed, port, run};

use crate::{by_sidecar, start};

async fn share(client: &Pod, count: u32) -> Result<(u32, u32)> {
    // One process, a connection for each request.
    let script = format!(
        "for i in $(seq {count}); do echo 'url = http://reviews:9080/who'; done | curl -sS --no-keepalive -K -"
    );
    let said = client.say(&["bash", "-c", &script]).await?;
    let of = |version: &str| {
        said.lines()
            .filter(|line| line.starts_with(version))
            .count()
    };
    let (v1, v2) = (of("v1 "), of("v2 "));
    ensure!(v1 + v2 == usize::try_from(count)?, "{said}");
    Ok((u32::try_from(v1)?, u32::try_from(v2)?))
}

#[test]
fn curl_is_routed_by_weight_and_traced() {
    const NAME: &str = "curl_is_routed_by_weight_and_traced";
    if !installed(NAME, &["curl", "nginx"]) {
        return;
    }
    run(NAME, async |place| {
        let http = [port("http", 9080)];
        let front = place.service("reviews", &http);
        let versions = [
            place.service("reviews-v1", &http),
            place.service("reviews-v2", &http),
        ];
        let mut client = place.pod("client")?;
        let (mut v1, mut v2) = (place.pod("reviews-v1-0")?, place.pod("reviews-v2-0")?);
        let split = |weights: [u32; 2]| {
            let backends = [("reviews-v1", weights[0]), ("reviews-v2", weights[1])];
            objects::split("reviews", &backends).replace("port: 80,", "port: 9080,")
        };
        let services = [
            front.yaml(&[]),
            versions[0].yaml(&[&v1]),
            versions[1].yaml(&[&v2]),
        ];
        start(place, &services, &mut [&mut client, &mut v1, &mut v2]).await?;
        let mesh = place.mesh()?;
        mesh.edit("route.yaml", &split([70, 30])).await?;
        let _nginx = (
            Nginx::start(&v1, 9080, "v1").await?,
            Nginx::start(&v2, 9080, "v2").await?,
        );
        let (_, of_v2) = share(&client, 400).await?;
        // Six standard deviations.
        ensure!(
            (65..=175).contains(&of_v2),
            "{of_v2} of 400 instead of 30 %"
        );
        mesh.edit("route.yaml", &split([0, 100])).await?;
        ensure!(share(&client, 20).await? == (0, 20));

        // The request id that the service sees is the trace's tag; a span of each sidecar.
        let said = client
            .say(&["curl", "-sS", "http://reviews:9080/who"])
            .await?;
        let id = said.split_whitespace().last().context("no request id")?;
        let trace = outrigger_tests::wait::until(
            "the trace",
            outrigger_tests::mesh::DEADLINE,
            async || {
                let traces = mesh.jaeger("traces?service=client.shop&limit=500").await?;
                let traces = traces.as_array().context("traces")?.clone();
                let found = traces.into_iter().find(|trace| {
                    trace.to_string().contains(id)
                        && trace["spans"]
                            .as_array()
                            .is_some_and(|spans| spans.len() >= 2)
                });
                found.with_context(|| format!("none has {id}"))
            },
        )
        .await?;
        let processes = trace["processes"].to_string();
        ensure!(
            processes.contains("client.shop") && processes.contains("reviews-v2-0.shop"),
            "{trace:#}"
        );

        // The same by prior knowledge of HTTP/2, and with another name for the host.
        let words = [
            "curl",
            "-sS",
            "-H",
            "host: elsewhere",
            "http://reviews:9080/who",
        ];
        let said = client.say(&words).await?;
        ensure!(by_sidecar(&said)? == ("v2", "elsewhere"), "{said}");
        Ok(())
    });
}
