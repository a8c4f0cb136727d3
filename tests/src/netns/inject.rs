//! What `outrigger inject` makes of a pod, read back as the commands that a kubelet would run.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::CONTROL_PLANE;
use crate::mesh::DEADLINE;
use crate::{process, proxy};

/// How inbound connections get to the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Their destination is rewritten.
    #[default]
    Redirect,
    /// They keep their addresses.
    Tproxy,
}

/// How a pod is injected.
#[derive(Clone, Debug, Default)]
pub struct Injection {
    /// How inbound connections get to the sidecar.
    pub mode: Mode,
    /// Annotations of the pod, without `outrigger.dev/`.
    pub annotations: Vec<(&'static str, String)>,
    /// Fields of the application's container, such as probes.
    pub container: Value,
    /// The sidecar's own configuration, instead of the control plane's.
    pub static_resources: Option<Value>,
}

/// The two commands.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    /// Of the init container, after `outrigger`.
    pub(super) redirect: Vec<String>,
    /// Of the sidecar, after `outrigger-proxy`.
    pub(super) proxy: Vec<String>,
    /// The sidecar's variables.
    pub(super) env: Vec<(String, String)>,
}

impl Injection {
    fn manifest(&self, name: &str) -> String {
        let mut annotations = serde_json::Map::new();
        let mode = match self.mode {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        };
        annotations.insert("outrigger.dev/redirect".to_owned(), mode.into());
        annotations.insert("outrigger.dev/drain-time".to_owned(), "2s".into());
        annotations.insert("outrigger.dev/concurrency".to_owned(), "1".into());
        for (name, value) in &self.annotations {
            annotations.insert(format!("outrigger.dev/{name}"), value.clone().into());
        }
        let mut container = json!({"name": "app", "image": "app"});
        for (field, value) in self.container.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "shop",
                "labels": {"app": name},
                "annotations": annotations,
            },
            "spec": {
                "serviceAccountName": name,
                "containers": [container],
            },
        });
        pod.to_string()
    }

    pub(super) async fn commands(&self, name: &str, ips: &[IpAddr]) -> Result<Commands> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("pod.json");
        std::fs::write(&file, self.manifest(name))?;
        let args =
            ["inject", "--output=json", "-f", &file.display().to_string()].map(str::to_owned);
        let (code, text) = process::run(&proxy::binary("outrigger")?, &args, DEADLINE).await?;
        ensure!(code == 0, "outrigger inject: {text}");
        // What it says about its changes comes after the pod.
        let mut documents = serde_json::Deserializer::from_str(&text);
        let pod = Value::deserialize(&mut documents).with_context(|| text.clone())?;
        let containers = pod["spec"]["initContainers"].as_array();
        let container = |name: &str| {
            let found = containers.and_then(|all| all.iter().find(|one| one["name"] == name));
            found.with_context(|| format!("no container {name}: {text}"))
        };
        let sidecar = container("outrigger-proxy")?;
        let variables = variables(sidecar, &pod, ips);
        let mut proxy = words(sidecar, &variables)?;
        for word in &mut proxy {
            if let Ok(mut bootstrap) = serde_json::from_str::<Value>(word)
                && bootstrap.is_object()
            {
                self.adapt(&mut bootstrap)?;
                *word = bootstrap.to_string();
            }
        }
        Ok(Commands {
            redirect: words(container("outrigger-init")?, &[])?,
            proxy,
            env: variables,
        })
    }

    fn adapt(&self, bootstrap: &mut Value) -> Result<()> {
        if let Some(resources) = &self.static_resources {
            let own = bootstrap["static_resources"].as_object_mut();
            let own = own.context("static_resources")?;
            for (key, more) in resources.as_object().context("an object")? {
                let list = own.get_mut(key).and_then(Value::as_array_mut);
                list.context("a list")?
                    .extend(more.as_array().into_iter().flatten().cloned());
            }
            let own = bootstrap.as_object_mut().context("bootstrap")?;
            own.remove("dynamic_resources");
            return Ok(());
        }
        let metadata = &bootstrap["node"]["metadata"]["outrigger"];
        ensure!(
            metadata["interception"].is_object(),
            "the injector does not say that connections are taken over: {metadata:#}"
        );
        Ok(())
    }
}

/// The container's environment, as a kubelet fills it in.
fn variables(container: &Value, pod: &Value, ips: &[IpAddr]) -> Vec<(String, String)> {
    let all: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
    let field = |path: &str| match path {
        "metadata.name" => pod["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        "metadata.namespace" => "shop".to_owned(),
        "spec.serviceAccountName" => pod["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        "spec.nodeName" => "node".to_owned(),
        "metadata.uid" => "00000000-0000-0000-0000-000000000000".to_owned(),
        "status.podIP" => all.first().cloned().unwrap_or_default(),
        "status.podIPs" => all.join(","),
        _ => String::new(),
    };
    let list = container["env"].as_array().into_iter().flatten();
    list.filter_map(|variable| {
        let name = variable["name"].as_str()?.to_owned();
        let value = match variable["value"].as_str() {
            Some(value) => value.to_owned(),
            None => field(variable["valueFrom"]["fieldRef"]["fieldPath"].as_str()?),
        };
        Some((name, value))
    })
    .collect()
}

fn words(container: &Value, variables: &[(String, String)]) -> Result<Vec<String>> {
    let args = container["args"].as_array().context("args")?;
    let command = container["command"].as_array().into_iter().flatten();
    // The program itself is ours to find.
    let words = command.skip(1).chain(args).filter_map(Value::as_str);
    Ok(words
        .map(|word| {
            let mut word = word.to_owned();
            for (name, value) in variables {
                word = word.replace(&format!("$({name})"), value);
            }
            word
        })
        .collect())
}

/// That the injector names the control plane as the node's hosts do.
pub(super) fn names_control_plane(words: &[String]) -> bool {
    words.iter().any(|word| word.contains(CONTROL_PLANE))
}
