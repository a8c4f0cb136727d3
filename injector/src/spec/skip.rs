//! Pods that cannot have a sidecar, or have one already.

use serde_json::Value;

use super::{ALREADY_INJECTED, Options, Origin, PREFIX, PROXY_CONTAINER, Pod, STATUS};

/// Sidecars of other meshes, by container.
const OTHER_SIDECARS: [(&str, &str); 7] = [
    ("istio-proxy", "Istio"),
    ("linkerd-proxy", "Linkerd"),
    ("consul-dataplane", "Consul"),
    ("consul-connect-envoy-sidecar", "Consul"),
    ("kuma-sidecar", "Kuma"),
    ("osm-envoy", "Open Service Mesh"),
    ("aws-appmesh-envoy", "App Mesh"),
];

/// Words of pods that another mesh injects or has injected: a label or annotation, its value (or any).
const OTHER_WORDS: [(&str, &[&str], &str); 9] = [
    ("sidecar.istio.io/inject", &["true"], "Istio"),
    ("sidecar.istio.io/status", &[], "Istio"),
    ("linkerd.io/inject", &["enabled", "ingress"], "Linkerd"),
    ("linkerd.io/proxy-version", &[], "Linkerd"),
    ("kuma.io/sidecar-injection", &["enabled", "true"], "Kuma"),
    ("kuma.io/sidecar-injected", &["true"], "Kuma"),
    ("consul.hashicorp.com/connect-inject", &["true"], "Consul"),
    (
        "consul.hashicorp.com/connect-inject-status",
        &["injected"],
        "Consul",
    ),
    (
        "openservicemesh.io/sidecar-injection",
        &["enabled"],
        "Open Service Mesh",
    ),
];

/// Why this pod gets none, if so.
pub(super) fn reason(pod: &Pod<'_>) -> Option<String> {
    if pod.annotation(STATUS).is_some() || pod.has_container(PROXY_CONTAINER) {
        return Some(ALREADY_INJECTED.to_owned());
    }
    if pod.spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Some(
            "hostNetwork: redirection would take over the traffic of the whole node".to_owned(),
        );
    }
    for (container, mesh) in OTHER_SIDECARS {
        if pod.has_container(container) {
            return Some(format!("has the sidecar of {mesh} (container {container})"));
        }
    }
    for (key, values, mesh) in OTHER_WORDS {
        let value = pod.label(key).or_else(|| pod.annotation(key));
        if let Some(value) = value
            && (values.is_empty() || values.contains(&value))
        {
            return Some(format!("belongs to {mesh} ({key}: {value})"));
        }
    }
    if is_windows(pod) {
        return Some("runs on Windows".to_owned());
    }
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return Some(
            "mirrors a static pod of a node, which the API server cannot change".to_owned(),
        );
    }
    None
}

fn is_windows(pod: &Pod<'_>) -> bool {
    let os = pod.spec.get("os").and_then(|os| os.get("name"));
    let node = pod
        .spec
        .get("nodeSelector")
        .and_then(|labels| labels.get("kubernetes.io/os"));
    [os, node]
        .into_iter()
        .flatten()
        .any(|name| name.as_str() == Some("windows"))
}

/// Pods that are to end, where the sidecar would be an ordinary container that never does.
pub(super) fn never_finishes(pod: &Pod<'_>, origin: &Origin, options: &Options) -> Option<String> {
    if options.native_sidecar {
        return None;
    }
    let restart = pod.spec.get("restartPolicy").and_then(Value::as_str);
    let ends = matches!(origin.kind.as_str(), "Job" | "CronJob")
        || matches!(restart, Some("Never" | "OnFailure"));
    if !ends || is_wrapped(pod, restart) {
        return None;
    }
    let stays = match restart {
        Some("OnFailure") => "--stays-on-failure ",
        _ => "",
    };
    Some(format!(
        "the pod is to finish, and a sidecar that is an ordinary container never would: it needs native \
         sidecars (Kubernetes 1.29, or {PREFIX}native-sidecar: \"true\"), or a single container whose command \
         begins with `outrigger sidecar exec {stays}--`"
    ))
}

/// Whether the pod's only container ends the sidecar with itself. Where a failed container is started again the
/// sidecar must outlive it: a container that ended well is not started again.
fn is_wrapped(pod: &Pod<'_>, restart: Option<&str>) -> bool {
    let containers = pod.spec.get("containers").and_then(Value::as_array);
    let Some([container]) = containers.map(Vec::as_slice) else {
        return false;
    };
    let words = |field| {
        let list = container.get(field).and_then(Value::as_array);
        list.into_iter().flatten().map(Value::as_str)
    };
    let command = words("command").collect::<Vec<_>>();
    let [Some(program), Some("sidecar"), Some("exec"), ..] = command[..] else {
        return false;
    };
    let has_stays = command
        .iter()
        .copied()
        .chain(words("args"))
        .take_while(|word| *word != Some("--"))
        .any(|word| word == Some("--stays-on-failure"));
    program.rsplit('/').next() == Some("outrigger") && has_stays == (restart == Some("OnFailure"))
}
