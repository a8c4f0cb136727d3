//! The sidecar of an injected pod, run as Kubernetes would, but for its ports.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use outrigger_injector::spec::{
    ADMIN_PORT, METRICS_PORT, Origin, Outcome, PROXY_CONTAINER, READY_PORT, Settings, inject,
};
use outrigger_mesh::scope::{METADATA_KEY, NodeMetadata};
use outrigger_tests::client::{self, Response};
use outrigger_tests::mesh::{DEADLINE, ports};
use outrigger_tests::process::{Process, run};
use outrigger_tests::proxy::Kind;
use outrigger_tests::wait;
use serde_json::{Value, json};

/// What the pod is once it is scheduled.
const FIELDS: [(&str, &str); 7] = [
    ("metadata.name", "web-1"),
    ("metadata.namespace", "shop"),
    ("metadata.uid", "0b5f1f5e-1c5a-4a39-8a53-6b8a1a3a6a10"),
    ("status.podIP", "10.1.0.5"),
    ("status.podIPs", "10.1.0.5,fd00::5"),
    ("spec.nodeName", "node-1"),
    ("spec.serviceAccountName", "web"),
];

/// A sidecar that runs.
pub(crate) struct Sidecar {
    /// The process.
    pub(crate) process: Process,
    /// Its admin interface.
    pub(crate) admin: SocketAddr,
}

/// A pod with one container, which has these fields.
pub(crate) fn pod(container: &Value) -> Value {
    let mut app = json!({"name": "app", "image": "app:1"});
    for (field, value) in container.as_object().into_iter().flatten() {
        app[field] = value.clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [app]},
    })
}

/// Arguments, and variables with their values.
type Command = (Vec<String>, Vec<(String, String)>);

/// The arguments and the environment of the sidecar in the pod, as Kubernetes would hand them over.
fn command(pod: &Value, control_plane: SocketAddr) -> Result<Command> {
    let settings = Settings {
        control_plane: (control_plane.ip().to_string(), control_plane.port()),
        otlp: None,
        ..Settings::default()
    };
    let injected = match inject(pod, &Origin::default(), &settings) {
        Outcome::Injected(injected) => injected,
        other => anyhow::bail!("not injected: {other:?}"),
    };
    let containers = injected.pod["spec"]["initContainers"].as_array();
    let container = containers
        .into_iter()
        .flatten()
        .find(|container| container["name"] == PROXY_CONTAINER)
        .context("no sidecar")?;
    let mut known = BTreeMap::new();
    for variable in container["env"].as_array().context("no env")? {
        let name = variable["name"].as_str().context("a variable has a name")?;
        let value = match variable["value"].as_str() {
            Some(text) => expand(text, &known),
            None => {
                let path = &variable["valueFrom"]["fieldRef"]["fieldPath"];
                let field = FIELDS.iter().find(|(field, _)| path == field);
                field
                    .with_context(|| format!("no field {path}"))?
                    .1
                    .to_owned()
            }
        };
        known.insert(name.to_owned(), value);
    }
    let args = container["args"].as_array().context("no args")?;
    let args = args
        .iter()
        .map(|arg| Ok(expand(arg.as_str().context("an argument is text")?, &known)))
        .collect::<Result<_>>()?;
    Ok((args, known.into_iter().collect()))
}

/// Kubernetes' rules: `$(NAME)` if there is such a variable, `$$` is `$`.
fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let name = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'));
        rest = match name.and_then(|(name, after)| Some((known.get(name)?, after))) {
            Some((value, after)) => {
                out.push_str(value);
                after
            }
            None => {
                out.push('$');
                after.strip_prefix('$').unwrap_or(after)
            }
        };
    }
    out.push_str(rest);
    out
}

/// Moves the pod's ports, of which this machine has each only once.
fn relocate(value: &mut Value, admin: u16) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_u64() {
                    Some(port) if name == "port_value" => {
                        if port == u64::from(ADMIN_PORT) {
                            *value = admin.into();
                        } else if [READY_PORT, METRICS_PORT].map(u64::from).contains(&port) {
                            *value = 0.into();
                        }
                    }
                    _ => relocate(value, admin),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| relocate(value, admin)),
        _ => {}
    }
}

/// What the sidecar of a pod tells the control plane of itself.
pub(crate) fn metadata(pod: &Value) -> Result<NodeMetadata> {
    let (args, _) = command(pod, SocketAddr::from((Ipv4Addr::LOCALHOST, 9)))?;
    let config = args.iter().skip_while(|arg| *arg != "--config-yaml").nth(1);
    let bootstrap: Value = serde_json::from_str(config.context("no --config-yaml")?)?;
    let metadata = bootstrap["node"]["metadata"][METADATA_KEY].clone();
    Ok(serde_path_to_error::deserialize(metadata)?)
}

impl Sidecar {
    /// Starts it, and waits until its pages are there.
    pub(crate) async fn start(pod: &Value, control_plane: SocketAddr) -> Result<Self> {
        let (mut args, env) = command(pod, control_plane)?;
        let admin = ports::reserve()?;
        let config = args.iter().position(|arg| arg == "--config-yaml");
        let config = config.context("no --config-yaml")? + 1;
        let mut bootstrap: Value = serde_json::from_str(&args[config])?;
        relocate(&mut bootstrap, admin.port());
        args[config] = bootstrap.to_string();
        let env = env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect::<Vec<_>>();
        let binary = Kind::Outrigger.binary()?;
        let process = Process::start("sidecar", &binary, &args, &env)?;
        let mut sidecar = Self { process, admin };
        wait::until("the sidecar's pages", DEADLINE, async || {
            client::get(admin, "/server_info").await.map(drop)
        })
        .await?;
        sidecar.process.check_running()?;
        Ok(sidecar)
    }

    /// Where a listener of the bootstrap is.
    pub(crate) async fn listener(&self, name: &str) -> Result<SocketAddr> {
        wait::until(&format!("listener {name}"), DEADLINE, async || {
            let reply = client::get(self.admin, "/listeners?format=json").await?;
            let listeners: Value = serde_json::from_slice(&reply.body)?;
            let listener = listeners["listener_statuses"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|listener| listener["name"] == name)
                .with_context(|| format!("not among {listeners}"))?;
            let port = listener["local_address"]["socket_address"]["port_value"].as_u64();
            let port = u16::try_from(port.context("no port")?)?;
            Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        })
        .await
    }

    /// The same, asked over IPv6.
    pub(crate) async fn listener_v6(&self, name: &str) -> Result<SocketAddr> {
        let port = self.listener(name).await?.port();
        Ok(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
    }

    /// A page on the kubelet's port, asked as the kubelet does.
    pub(crate) async fn kubelet(&self, path: &str) -> Result<Response> {
        let ready = self.listener("outrigger-ready").await?;
        let mut request = client::Request::new("GET", path).header("user-agent", "kube-probe/1.31");
        request.authority = "10.1.0.5:15021".to_owned();
        let reply = request.send_h1(ready).await?;
        ensure!(
            reply.error.is_none() && reply.status != 0,
            "{path}: {reply:?}"
        );
        Ok(reply)
    }
}

/// How a sidecar ends that cannot start: its exit code, and what it says.
pub(crate) async fn refusal(name: &str, value: &str) -> Result<(i32, String)> {
    // `env` sets the variable for this process alone.
    let binary = Kind::Outrigger.binary()?.display().to_string();
    let args = [
        &format!("{name}={value}"),
        binary.as_str(),
        "--config-yaml",
        "{}",
    ];
    run("env".as_ref(), &args.map(str::to_owned), DEADLINE).await
}
