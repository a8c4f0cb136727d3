//! `outrigger injector` over real HTTPS: the binary that users run, and callers that check its certificate.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outrigger_injector::manifest::{documents, parse};
use outrigger_tests::kubernetes::{DEADLINE, Https, Injector, program, review, tls};
use outrigger_tests::{block_on, client, process, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ENABLED: &str = "/inject/namespace-enabled";
const CHANGES: &str = "outrigger_injector_certificate_changes_total";

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "app:1", "readinessProbe": {"tcpSocket": {"port": 80}}}]},
    })
}

/// The pod with the patch of an answer.
fn patched(pod: &Value, answer: &Value) -> Result<Value> {
    let mut pod = pod.clone();
    let patch = answer["response"]["patch"].as_str().context("no patch")?;
    let patch: json_patch::Patch = serde_json::from_slice(&BASE64_STANDARD.decode(patch)?)?;
    json_patch::patch(&mut pod, &patch)?;
    Ok(pod)
}

#[test]
fn reviews_of_every_kind_are_answered() -> Result<()> {
    block_on(async {
        let injector = Injector::start(&["--log-level", "debug"]).await?;
        let with = |field: &str, words: Value| {
            let mut pod = pod();
            pod["metadata"][field] = words;
            pod
        };
        let mut host = pod();
        host["spec"]["hostNetwork"] = true.into();
        let cases = [
            (ENABLED, "shop", pod(), "injected"),
            ("/inject", "shop", pod(), "skipped"),
            (
                "/inject",
                "shop",
                with("labels", json!({"outrigger.dev/inject": "true"})),
                "injected",
            ),
            (ENABLED, "kube-system", pod(), "skipped"),
            (ENABLED, "outrigger-system", pod(), "skipped"),
            (ENABLED, "shop", host, "skipped"),
            ("/inject/namespace-unknown", "shop", pod(), "refused"),
            (
                ENABLED,
                "shop",
                with("annotations", json!({"outrigger.dev/cpus": "1"})),
                "refused",
            ),
            (ENABLED, "shop", json!({"spec": 3}), "refused"),
        ];
        for protocol in ["h2", "http/1.1"] {
            let mut https =
                Https::connect(injector.webhook(), &injector.authorities()?, protocol).await?;
            for (index, (path, namespace, pod, word)) in cases.iter().enumerate() {
                let uid = format!("uid-{index}");
                let answer = https.review(path, &review(&uid, namespace, pod)).await?;
                let response = &answer["response"];
                ensure!(response["uid"] == *uid, "{answer}");
                let decision = response["auditAnnotations"]["decision"].as_str();
                let decision = decision.with_context(|| answer.to_string())?;
                ensure!(
                    decision.starts_with(&format!("{word}: ")),
                    "{index}: {decision}"
                );
                ensure!(response["allowed"] == (*word != "refused"), "{answer}");
                ensure!(
                    response.get("patch").is_some() == (*word == "injected"),
                    "{answer}"
                );
            }
        }
        for (result, count) in [("injected", 4.0), ("skipped", 8.0), ("refused", 6.0)] {
            let name = format!("outrigger_injector_requests_total{{result=\"{result}\"}}");
            ensure!(
                injector.metric(&name).await? == count,
                "{}",
                injector.page("/metrics").await?.1
            );
        }
        let log = injector.log();
        ensure!(
            log.contains(
                "refused pod=\"shop/web-\" reason=\"metadata.annotations[outrigger.dev/cpus]"
            ),
            "{log}"
        );
        ensure!(log.contains("did you mean outrigger.dev/cpu?"), "{log}");
        injector.stop().await
    })
}

#[test]
fn patches_make_what_the_command_makes() -> Result<()> {
    block_on(async {
        let injector = Injector::start(&[]).await?;
        let mut https = Https::connect(injector.webhook(), &injector.authorities()?, "h2").await?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../injector/tests/golden");
        let mut count = 0;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            if !path.to_string_lossy().ends_with(".in.yaml") {
                continue;
            }
            let found = documents(&text);
            let Some(Ok(Some(pod))) = found.first().map(parse) else {
                continue;
            };
            if pod["kind"] != "Pod" {
                continue;
            }
            let args = ["inject", "-o", "json", "-f"].map(str::to_owned);
            let args = [&args[..], &[path.display().to_string()]].concat();
            let output = tokio::process::Command::new(program()?)
                .args(&args)
                .output()
                .await?;
            if !output.status.success() {
                continue;
            }
            let expected: Value = serde_json::from_slice(&output.stdout)?;
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("shop");
            let answer = https.review(ENABLED, &review("1", namespace, &pod)).await?;
            let made = if expected == pod {
                ensure!(answer["response"].get("patch").is_none(), "{answer}");
                pod
            } else {
                patched(&pod, &answer)?
            };
            ensure!(
                made == expected,
                "{}: {made:#}\n{expected:#}",
                path.display()
            );
            count += 1;
        }
        ensure!(count >= 8, "only {count} pods");
        injector.stop().await
    })
}

#[test]
fn what_is_no_review_gets_an_answer_too() -> Result<()> {
    block_on(async {
        let injector = Injector::start(&[]).await?;
        let mut https = Https::connect(injector.webhook(), &injector.authorities()?, "h2").await?;
        let post = |path: &str, kind: &str, body: Vec<u8>| {
            Request::post(path)
                .header("content-type", kind)
                .body(Full::new(Bytes::from(body)))
        };
        let json = "application/json; charset=utf-8";
        let good = review("1", "shop", &pod()).to_string().into_bytes();
        let mut old = review("1", "shop", &pod());
        old["apiVersion"] = "admission.k8s.io/v1beta1".into();
        for (request, status, said) in [
            (post(ENABLED, json, good.clone())?, 200, "\"allowed\":true"),
            (
                post(ENABLED, json, old.to_string().into_bytes())?,
                200,
                "\"allowed\":false",
            ),
            (post(ENABLED, json, b"{".to_vec())?, 400, "no JSON"),
            (
                post(ENABLED, json, b"{}".to_vec())?,
                400,
                "request.uid is missing",
            ),
            (
                post(ENABLED, "text/yaml", good.clone())?,
                415,
                "application/json is expected",
            ),
            (post("/other", json, good.clone())?, 404, "/inject"),
            (Request::get(ENABLED).body(Full::default())?, 405, "POST"),
        ] {
            let reply = https.send(request).await?;
            ensure!(reply.status == status, "{status}: {reply:?}");
            ensure!(reply.body.contains(said), "{said}: {reply:?}");
        }
        // The rest of such a body is not read: that may end its connection.
        let mut large = Https::connect(injector.webhook(), &injector.authorities()?, "h2").await?;
        let reply = large
            .send(post(ENABLED, json, vec![b' '; 9 << 20])?)
            .await?;
        ensure!(reply.status == 413, "{reply:?}");

        for (path, status) in [
            ("/healthz", 200),
            ("/readyz", 200),
            ("/metrics", 200),
            ("/x", 404),
        ] {
            ensure!(injector.page(path).await?.0 == status, "{path}");
        }
        injector.stop().await
    })
}

#[test]
fn certificates_change_under_load_without_a_failing_request() -> Result<()> {
    block_on(async {
        let injector = Injector::start(&["--certificate-lifetime", "12s"]).await?;
        let first = injector.authorities()?;
        let request = review("1", "shop", &pod());
        let mut kept = [
            Https::connect(injector.webhook(), &first, "h2").await?,
            Https::connect(injector.webhook(), &first, "http/1.1").await?,
        ];
        let start = Instant::now();
        let mut both = false;
        let mut count = 0_u32;
        while injector.metric(CHANGES).await? < 2.0 {
            ensure!(
                start.elapsed() < DEADLINE,
                "no other certificate after {count} requests"
            );
            for https in &mut kept {
                https.review(ENABLED, &request).await?;
            }
            let authorities = injector.authorities()?;
            both |= authorities.matches("BEGIN CERTIFICATE").count() == 2;
            for protocol in ["h2", "http/1.1"] {
                let mut fresh = Https::connect(injector.webhook(), &authorities, protocol).await?;
                fresh.review(ENABLED, &request).await?;
            }
            count += 4;
        }
        ensure!(
            both,
            "the next authority was not known before its certificate was in use"
        );
        // Who knows only the first is not served any more, but open connections are.
        ensure!(
            Https::connect(injector.webhook(), &first, "h2")
                .await
                .is_err()
        );
        for https in &mut kept {
            https.review(ENABLED, &request).await?;
        }
        injector.stop().await
    })
}

#[test]
fn a_request_in_flight_is_finished_before_the_end() -> Result<()> {
    block_on(async {
        let mut injector = Injector::start(&["--stop-delay", "3s"]).await?;
        let authorities = injector.authorities()?;
        let body = review("1", "shop", &pod()).to_string();
        let mut open = tls(injector.webhook(), &authorities, "http/1.1").await?;
        let head = format!(
            "POST {ENABLED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let (before, after) = body.split_at(body.len() / 2);
        open.write_all(head.as_bytes()).await?;
        open.write_all(before.as_bytes()).await?;
        open.flush().await?;
        injector.terminate()?;
        wait::until("it to say that it stops", DEADLINE, async || {
            let (status, text) = injector.page("/readyz").await?;
            ensure!(status == 503 && text == "stopping\n", "{status} {text}");
            Ok(())
        })
        .await?;
        wait::until("new connections to be refused", DEADLINE, async || {
            let connected = Https::connect(injector.webhook(), &authorities, "h2").await;
            ensure!(connected.is_err(), "one more");
            Ok(())
        })
        .await?;
        open.write_all(after.as_bytes()).await?;
        let mut answer = String::new();
        open.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        ensure!(answer.contains("\"patchType\":\"JSONPatch\""), "{answer}");
        injector.ended().await
    })
}

#[test]
fn wrong_flags_are_named() -> Result<()> {
    block_on(async {
        for (args, said) in [
            (&["--certificate-lifetime", "1s"][..], "3s to ten years"),
            (&["--certificate-lifetime", "1d"], "no duration"),
            (&["--kubernetes-version", "new"], "no version"),
            (&["--default", "yes"], "possible values"),
        ] {
            let args = [&["injector"], args].concat();
            let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
            let (code, text) = process::run(&program()?, &args, DEADLINE).await?;
            ensure!(code == 2 && text.contains(said), "{code}: {text}");
        }
        Ok(())
    })
}

/// The figure of the documentation: how long answers take at 200 reviews a second on one core. It is printed, since
/// it is the machine's as much as ours:
/// `cargo test -p outrigger-tests --test injector -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn reviews_at_a_fixed_rate() -> Result<()> {
    block_on(async {
        let injector = Injector::start(&[]).await?;
        let id = injector.id().to_string();
        let pinned = std::process::Command::new("taskset")
            .args(["-a", "-c", "-p", "0", &id])
            .output()?;
        ensure!(pinned.status.success(), "{pinned:?}");
        let mut https = Https::connect(injector.webhook(), &injector.authorities()?, "h2").await?;
        let request = review("1", "shop", &pod());
        https.review(ENABLED, &request).await?;
        let mut took = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..4_000 {
            // From when it was due: a late answer makes those after it late too.
            let due = ticks.tick().await;
            https.review(ENABLED, &request).await?;
            took.push(due.elapsed());
        }
        took.sort();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        let cpu = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let ticks = cpu
            .split(' ')
            .skip(13)
            .take(2)
            .filter_map(|one| one.parse::<u64>().ok());
        println!(
            "200 reviews/s on one core, 20 s: p50 {:?}, p99 {:?}, slowest {:?}, {} ms of CPU",
            at(50),
            at(99),
            at(100),
            ticks.sum::<u64>() * 10
        );
        let reply = client::get(injector.metrics_address(), "/metrics").await?;
        println!("{}", String::from_utf8_lossy(&reply.body));
        injector.stop().await
    })
}
