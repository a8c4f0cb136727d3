//! Who gets a sidecar, as the API server stores it.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::kubernetes::{DEADLINE, program};
use outrigger_tests::wait;
use serde_json::{Value, json};

use super::place::{MESH, Place, has_sidecar, pod, refused};

pub(crate) async fn run(place: &Place) -> Result<()> {
    trusted(place).await.context("trust")?;
    rights(place).await.context("rights")?;
    table(place).await.context("table")?;
    refusals(place).await.context("refusals")?;
    dry_run(place).await.context("dry run")?;
    templates(place).await.context("templates")?;
    same_as_the_command(place).await.context("the command")
}

/// The registration was made without a certificate, which is put in by whichever replica was first.
async fn trusted(place: &Place) -> Result<()> {
    let trusted = wait::until("the caBundle", DEADLINE, async || place.trusted().await).await?;
    let secret = place.secret().await?;
    ensure!(secret["data"]["ca.crt"] == trusted, "{secret}");
    Ok(())
}

/// The service account may do what it needs, and nothing else.
async fn rights(place: &Place) -> Result<()> {
    let token = place.server.token(MESH, "outrigger-injector").await?;
    let client = place.server.client_of(&token)?;
    for path in [
        format!("/api/v1/namespaces/{MESH}/secrets"),
        "/api/v1/namespaces/on/secrets/outrigger-injector-certificates".to_owned(),
        "/api/v1/pods".to_owned(),
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".to_owned(),
    ] {
        let request = http::Request::get(&path).body(Vec::new())?;
        match client.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {}
            other => anyhow::bail!("{path}: {other:?}"),
        }
    }
    Ok(())
}

async fn table(place: &Place) -> Result<()> {
    let says = |map: &str, word: &str| {
        let mut words = json!({});
        words["outrigger.dev/inject"] = word.into();
        (map.to_owned(), words)
    };
    let cases = [
        ("on", None, true),
        ("on", Some(says("labels", "disabled")), false),
        ("on", Some(says("annotations", "false")), false),
        ("off", None, false),
        ("off", Some(says("labels", "enabled")), true),
        ("silent", None, false),
        ("silent", Some(says("labels", "true")), true),
        ("silent", Some(says("annotations", "enabled")), true),
        ("kube-system", Some(says("labels", "enabled")), false),
        (MESH, Some(says("annotations", "enabled")), false),
    ];
    for (index, (namespace, said, expected)) in cases.into_iter().enumerate() {
        let mut pod = pod(namespace, &format!("table-{index}"));
        if namespace == MESH {
            // What its namespace enforces.
            pod["spec"]["securityContext"] =
                json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
            pod["spec"]["containers"][0]["securityContext"] = json!({
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            });
        }
        if let Some((map, words)) = said {
            pod["metadata"][map] = words;
        }
        let stored = place.server.create(&pod).await?;
        ensure!(has_sidecar(&stored) == expected, "{index}: {stored:#}");
    }
    // A pod of a controller has no name yet when it is looked at.
    let mut nameless = pod("on", "");
    nameless["metadata"] = json!({"generateName": "web-6d4-", "namespace": "on"});
    ensure!(has_sidecar(&place.server.create(&nameless).await?));

    let audit = wait::until("the audit log", DEADLINE, async || {
        let events = place.server.audit()?;
        let pods = events
            .into_iter()
            .filter(|event| event["responseStatus"]["code"] == 201);
        let of = |event: &Value| {
            event["annotations"]["enabled.namespace.outrigger.dev/decision"].clone()
        };
        let said: Vec<_> = pods.map(|event| of(&event)).collect();
        ensure!(
            said.iter().filter(|one| one.is_string()).count() >= 4,
            "{said:?}"
        );
        Ok(said)
    })
    .await?;
    let expected = "injected: sidecar: namespace label outrigger.dev/inject: enabled (rule 4)";
    ensure!(audit.contains(&expected.into()), "{audit:?}");
    Ok(())
}

async fn refusals(place: &Place) -> Result<()> {
    let mut typo = pod("on", "typo");
    typo["metadata"]["annotations"] = json!({"outrigger.dev/log-levl": "debug"});
    let mut word = pod("silent", "typo");
    word["metadata"]["labels"]["outrigger.dev/inject"] = "enable".into();
    for (pod, parts) in [
        (
            typo,
            [
                "metadata.annotations[outrigger.dev/log-levl]",
                "outrigger.dev/log-level?",
            ],
        ),
        (
            word,
            [
                "metadata.labels[outrigger.dev/inject]",
                "did you mean enabled?",
            ],
        ),
        (
            pod("typo", "any"),
            [
                "labels[outrigger.dev/inject] of the namespace typo",
                "neither enabled nor disabled",
            ],
        ),
    ] {
        let why = refused(&place.server, &pod).await?;
        for part in parts.into_iter().chain(["denied the request"]) {
            ensure!(why.contains(part), "{part}: {why}");
        }
    }
    Ok(())
}

async fn dry_run(place: &Place) -> Result<()> {
    let tried = place.server.try_create(&pod("on", "tried")).await?;
    ensure!(has_sidecar(&tried), "{tried:#}");
    let there = place.server.get("/api/v1/namespaces/on/pods/tried").await;
    ensure!(there.is_err(), "a trial was stored: {there:?}");
    Ok(())
}

/// Only pods are changed: templates stay as their owners wrote them.
async fn templates(place: &Place) -> Result<()> {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    for kind in ["Deployment", "ReplicaSet"] {
        let workload = json!({
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": "web", "namespace": "on"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
        });
        let stored = place.server.create(&workload).await?;
        let stored = &stored["spec"]["template"];
        ensure!(stored["spec"].get("initContainers").is_none(), "{stored:#}");
        // As its controller makes them.
        let mut pod = stored.clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["namespace"] = "on".into();
        pod["metadata"]["generateName"] = format!("{}-", kind.to_lowercase()).into();
        if let Some(metadata) = pod["metadata"].as_object_mut() {
            metadata.remove("creationTimestamp");
        }
        ensure!(has_sidecar(&place.server.create(&pod).await?), "{kind}");
    }
    Ok(())
}

/// What the command prints is taken under strict validation, and is stored as what the webhook makes.
async fn same_as_the_command(place: &Place) -> Result<()> {
    let by_webhook = place.server.create(&pod("on", "same")).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), pod("silent", "same").to_string())?;
    let args = ["inject", "-o", "json", "-f"].map(str::to_owned);
    let args = [&args[..], &[file.path().display().to_string()]].concat();
    let output = tokio::process::Command::new(program()?)
        .args(&args)
        .output()
        .await?;
    ensure!(output.status.success(), "{output:?}");
    let by_command: Value = serde_json::from_slice(&output.stdout)?;
    let by_command = place.server.create(&by_command).await?;
    for list in ["initContainers", "containers"] {
        let (one, other) = (settled(&by_webhook, list), settled(&by_command, list));
        ensure!(one == other, "{list}: {one:#}\n{other:#}");
    }
    // With the probes of an application too.
    let mut probed = pod("on", "probed");
    probed["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/up", "port": "http"}});
    let stored = place.server.create(&probed).await?;
    let probe = &stored["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    ensure!(
        probe["path"] == "/app-health/app/readyz" && probe["port"] == 15021,
        "{stored:#}"
    );
    Ok(())
}

/// Containers without what the server adds by chance: the names of its own volumes.
fn settled(pod: &Value, list: &str) -> Value {
    let mut containers = pod["spec"][list].clone();
    for container in containers.as_array_mut().into_iter().flatten() {
        let mounts = container["volumeMounts"].as_array_mut();
        for mount in mounts.into_iter().flatten() {
            let name = mount["name"].as_str().unwrap_or_default();
            if name.starts_with("kube-api-access-") {
                mount["name"] = "kube-api-access".into();
            }
        }
    }
    containers
}
