//! The sidecar's container and its volumes.

use serde_json::{Map, Value, json};

use super::{
    METRICS_PORT, Options, Origin, POD_VOLUME, PROXY_CONTAINER, PROXY_USER, Pod, READY_PORT,
    Redirect, Settings, TOKEN_VOLUME, bootstrap, env, literal, metrics,
};
use crate::redirect::Mode;

/// How long the application's start waits for the sidecar where it is an ordinary container.
const HOLD_SECONDS: u64 = 120;

/// The container; [`tell`] adds what it is to know of the application.
pub(super) fn container(
    pod: &Pod<'_>,
    origin: &Origin,
    settings: &Settings,
    options: &Options,
) -> Value {
    let workload = workload(pod, origin);
    let config = bootstrap::text(&workload, settings, options);
    let mut container = json!({
        "name": PROXY_CONTAINER,
        "image": options.image,
        "command": ["outrigger-proxy"],
        "args": [
            "--config-yaml", config,
            "--log-level", options.log_level,
            "--concurrency", options.concurrency.to_string(),
            "--drain-time-s", options.drain_seconds.to_string(),
        ],
        "ports": [
            {"name": "outrigger-ready", "containerPort": READY_PORT, "protocol": "TCP"},
            {"name": "outrigger-prom", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "env": environment(&workload),
        "resources": {
            "requests": {"cpu": options.cpu, "memory": options.memory},
            "limits": {"cpu": options.cpu_limit, "memory": options.memory_limit},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/outrigger", "readOnly": true},
            {"name": POD_VOLUME, "mountPath": "/etc/outrigger/pod", "readOnly": true},
        ],
        "startupProbe": probe("/healthz/ready", 1, 600),
        "readinessProbe": probe("/healthz/ready", 5, 3),
        "livenessProbe": probe("/healthz/live", 10, 6),
        "securityContext": security(options),
    });
    if let Some(container) = container.as_object_mut() {
        if options.native_sidecar {
            container.insert("restartPolicy".to_owned(), "Always".into());
        } else {
            container.insert("lifecycle".to_owned(), lifecycle(options));
        }
    }
    container
}

/// Names the application's probes and metrics to the sidecar.
pub(super) fn tell(
    container: &mut Value,
    probes: &Map<String, Value>,
    app_metrics: Option<&Value>,
) {
    let Some(variables) = container.get_mut("env").and_then(Value::as_array_mut) else {
        return;
    };
    if !probes.is_empty() {
        let probes = serde_json::to_string(probes).unwrap_or_default();
        variables.push(env("OUTRIGGER_APP_PROBES", &literal(&probes)));
    }
    if let Some(app) = app_metrics {
        variables.push(env("OUTRIGGER_APP_METRICS", &metrics::told(app)));
    }
}

/// The volumes that the container mounts.
pub(super) fn volumes() -> [Value; 2] {
    let token = json!({
        "name": TOKEN_VOLUME,
        "projected": {"sources": [{"serviceAccountToken": {
            "audience": "outrigger.dev", "expirationSeconds": 3600, "path": "token",
        }}]},
    });
    let pod = json!({
        "name": POD_VOLUME,
        "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]},
    });
    [token, pod]
}

fn environment(workload: &bootstrap::Workload) -> Vec<Value> {
    let fields = [
        ("OUTRIGGER_POD_NAME", "metadata.name"),
        ("OUTRIGGER_POD_NAMESPACE", "metadata.namespace"),
        ("OUTRIGGER_POD_UID", "metadata.uid"),
        ("OUTRIGGER_POD_IP", "status.podIP"),
        ("OUTRIGGER_POD_IPS", "status.podIPs"),
        ("OUTRIGGER_NODE_NAME", "spec.nodeName"),
        ("OUTRIGGER_SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    let mut variables = fields
        .into_iter()
        .map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}))
        .collect::<Vec<_>>();
    variables.push(env("OUTRIGGER_WORKLOAD", &literal(&workload.name)));
    variables
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": READY_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

fn security(options: &Options) -> Value {
    let mut context = json!({
        "runAsUser": PROXY_USER,
        "runAsGroup": PROXY_USER,
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "privileged": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if options.redirect == Redirect::Rules(Mode::Tproxy)
        && let Some(context) = context.as_object_mut()
    {
        // Transparent sockets need NET_ADMIN, and Kubernetes gives capabilities to root alone. The rules then
        // know the sidecar by its group.
        context.insert("runAsUser".to_owned(), 0.into());
        context.insert("runAsNonRoot".to_owned(), false.into());
        context.insert(
            "capabilities".to_owned(),
            json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        );
    }
    context
}

fn lifecycle(options: &Options) -> Value {
    let hold = format!("{HOLD_SECONDS}s");
    let drain = format!("{}s", options.drain_seconds);
    json!({
        // The kubelet starts the next container when this one's hook has returned.
        "postStart": {"exec": {"command": ["outrigger", "sidecar", "wait", "--timeout", hold]}},
        "preStop": {"exec": {"command": ["outrigger", "sidecar", "drain", "--timeout", drain]}},
    })
}

/// Who the pod is, by what is known before it exists.
fn workload(pod: &Pod<'_>, origin: &Origin) -> bootstrap::Workload {
    let name = if origin.kind.is_empty() || origin.kind == "Pod" {
        owner(pod).unwrap_or_else(|| own_name(pod, origin))
    } else {
        origin.name.clone()
    };
    let named = |keys: [&str; 3]| {
        keys.into_iter()
            .find_map(|key| pod.label(key))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    };
    let service = named([
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    bootstrap::Workload {
        service: service.unwrap_or_else(|| name.clone()),
        version: named([
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]),
        labels: pod
            .labels()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        name,
    }
}

fn own_name(pod: &Pod<'_>, origin: &Origin) -> String {
    let word = |key| {
        pod.metadata
            .and_then(|metadata| metadata.get(key)?.as_str())
            .unwrap_or_default()
    };
    let name = [origin.name.as_str(), word("name"), word("generateName")]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("unknown");
    name.trim_end_matches('-').to_owned()
}

/// The workload that controls the pod: a ReplicaSet is a Deployment's by the pod's template hash, a Job is a
/// CronJob's by the time in its name.
fn owner(pod: &Pod<'_>) -> Option<String> {
    let owner = pod
        .metadata?
        .get("ownerReferences")?
        .as_array()?
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    let name = owner.get("name")?.as_str()?;
    let base = match owner.get("kind")?.as_str()? {
        "ReplicaSet" => pod
            .label("pod-template-hash")
            .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-')),
        "Job" => name.rsplit_once('-').and_then(|(base, time)| {
            let is_time = time.len() >= 8 && time.bytes().all(|one| one.is_ascii_digit());
            is_time.then_some(base)
        }),
        _ => None,
    };
    Some(base.unwrap_or(name).to_owned())
}
