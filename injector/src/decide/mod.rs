//! Who gets a sidecar: one table of precedence. The first row that says something decides.
//!
//! | | where | says |
//! |---|---|---|
//! | 1 | the namespace is `kube-system`, `kube-public`, `kube-node-lease` or the mesh's own | never |
//! | 2 | the pod's label `outrigger.dev/inject` | `enabled` or `disabled` |
//! | 3 | the pod's annotation `outrigger.dev/inject` | `enabled` or `disabled` |
//! | 4 | the namespace's label `outrigger.dev/inject` | `enabled` or `disabled` |
//! | 5 | the mesh's default | `disabled`, unless set otherwise |
//!
//! (`true` and `false` are the same words.)

use std::fmt;

use serde_json::{Map, Value};

use crate::{
    Problem,
    spec::{INJECT, Pod, nearest},
};

/// Namespaces of Kubernetes itself.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// What a decision is made of, besides the pod.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// That namespace's labels, as far as they are known.
    pub namespace_labels: Option<&'a Map<String, Value>>,
    /// The namespace of the mesh.
    pub mesh_namespace: &'a str,
    /// Row 5.
    pub default: bool,
}

/// The row that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Never in this namespace.
    Namespace,
    /// The pod's label.
    PodLabel,
    /// The pod's annotation.
    PodAnnotation,
    /// The namespace's label.
    NamespaceLabel,
    /// The mesh's default.
    Default,
}

/// A decision, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the pod gets a sidecar.
    pub inject: bool,
    /// The row of the table.
    pub row: Row,
    /// What that row says.
    pub reason: String,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = match self.row {
            Row::Namespace => 1,
            Row::PodLabel => 2,
            Row::PodAnnotation => 3,
            Row::NamespaceLabel => 4,
            Row::Default => 5,
        };
        let what = if self.inject { "sidecar" } else { "no sidecar" };
        write!(f, "{what}: {} (rule {row})", self.reason)
    }
}

/// Decides.
///
/// # Errors
/// When the pod is none, or a label or annotation has a value that means nothing.
pub fn decide(template: &Value, context: &Context<'_>) -> Result<Decision, Vec<Problem>> {
    let pod = Pod::read(template)?;
    let Context {
        namespace,
        namespace_labels,
        mesh_namespace,
        default,
    } = *context;
    let of_namespace = match namespace_labels.and_then(|labels| labels.get(INJECT)) {
        None => None,
        Some(Value::String(value)) => Some(value.as_str()),
        Some(_) => {
            let path = format!("namespace labels[{INJECT}]");
            return Err(vec![Problem::new(path, "not a string")]);
        }
    };
    // All are read, so that a typo shows even where a stronger row decides.
    let said = [
        (
            Row::PodLabel,
            pod.label(INJECT),
            "pod label",
            "metadata.labels",
        ),
        (
            Row::PodAnnotation,
            pod.annotation(INJECT),
            "pod annotation",
            "metadata.annotations",
        ),
        (
            Row::NamespaceLabel,
            of_namespace,
            "namespace label",
            "namespace labels",
        ),
    ];
    let mut problems = Vec::new();
    let mut decision = None;
    for (row, value, place, path) in said {
        let Some(value) = value else { continue };
        match word(value) {
            Ok(inject) if decision.is_none() => {
                decision = Some(Decision {
                    inject,
                    row,
                    reason: format!("{place} {INJECT}: {value}"),
                });
            }
            Ok(_) => {}
            Err(message) => problems.push(Problem::new(format!("{path}[{INJECT}]"), message)),
        }
    }
    if SYSTEM_NAMESPACES.contains(&namespace) || namespace == mesh_namespace {
        let whose = if namespace == mesh_namespace {
            "the mesh's own"
        } else {
            "Kubernetes' own"
        };
        return Ok(Decision {
            inject: false,
            row: Row::Namespace,
            reason: format!("never in {namespace}, {whose} namespace"),
        });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(decision.unwrap_or_else(|| Decision {
        inject: default,
        row: Row::Default,
        reason: "neither the pod nor its namespace says anything".to_owned(),
    }))
}

fn word(value: &str) -> Result<bool, String> {
    match value {
        "enabled" | "true" => Ok(true),
        "disabled" | "false" => Ok(false),
        other => {
            let words = ["enabled", "disabled", "true", "false"];
            let hint = nearest(other, words.into_iter())
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            Err(format!("`{other}` is neither enabled nor disabled{hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(label: Option<&str>, annotation: Option<&str>) -> Value {
        let words = |value: Option<&str>| match value {
            Some(value) => json!({INJECT: value}),
            None => json!({}),
        };
        json!({
            "metadata": {"labels": words(label), "annotations": words(annotation)},
            "spec": {"containers": [{"name": "app"}]},
        })
    }

    fn ask(pod: &Value, namespace: &str, label: Option<&str>, default: bool) -> String {
        let labels = label.map(|label| {
            let mut labels = Map::new();
            labels.insert(INJECT.to_owned(), label.into());
            labels
        });
        let context = Context {
            namespace,
            namespace_labels: labels.as_ref(),
            mesh_namespace: "outrigger-system",
            default,
        };
        match decide(pod, &context) {
            Ok(decision) => decision.to_string(),
            Err(problems) => problems[0].to_string(),
        }
    }

    #[test]
    fn the_first_row_that_says_something_decides() {
        let (on, off) = (Some("enabled"), Some("disabled"));
        let cases = [
            (
                on,
                on,
                "kube-system",
                on,
                true,
                "no sidecar: never in kube-system, Kubernetes' own namespace (rule 1)",
            ),
            (
                on,
                on,
                "outrigger-system",
                on,
                true,
                "no sidecar: never in outrigger-system, the mesh's own namespace (rule 1)",
            ),
            (
                on,
                off,
                "shop",
                off,
                false,
                "sidecar: pod label outrigger.dev/inject: enabled (rule 2)",
            ),
            (
                off,
                on,
                "shop",
                on,
                true,
                "no sidecar: pod label outrigger.dev/inject: disabled (rule 2)",
            ),
            (
                None,
                off,
                "shop",
                on,
                true,
                "no sidecar: pod annotation outrigger.dev/inject: disabled (rule 3)",
            ),
            (
                None,
                on,
                "shop",
                off,
                false,
                "sidecar: pod annotation outrigger.dev/inject: enabled (rule 3)",
            ),
            (
                None,
                None,
                "shop",
                on,
                false,
                "sidecar: namespace label outrigger.dev/inject: enabled (rule 4)",
            ),
            (
                None,
                None,
                "shop",
                off,
                true,
                "no sidecar: namespace label outrigger.dev/inject: disabled (rule 4)",
            ),
            (
                None,
                None,
                "shop",
                None,
                false,
                "no sidecar: neither the pod nor its namespace says anything (rule 5)",
            ),
            (
                None,
                None,
                "shop",
                None,
                true,
                "sidecar: neither the pod nor its namespace says anything (rule 5)",
            ),
        ];
        for (label, annotation, namespace, of_namespace, default, expected) in cases {
            let answer = ask(&pod(label, annotation), namespace, of_namespace, default);
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn words_that_mean_nothing_are_refused_wherever_they_are() {
        assert_eq!(
            ask(&pod(Some("enabled"), Some("enable")), "shop", None, false),
            "metadata.annotations[outrigger.dev/inject]: `enable` is neither enabled nor disabled; did you mean enabled?"
        );
        assert_eq!(
            ask(&pod(None, None), "shop", Some("yes"), false),
            "namespace labels[outrigger.dev/inject]: `yes` is neither enabled nor disabled"
        );
    }
}
