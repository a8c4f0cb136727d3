//! What Kubernetes is told to run the webhook and to call it: all objects, from one set of values.

use serde_json::{Map, Value, json};

use super::{review::NamespaceLabel, secret};
use crate::{decide::SYSTEM_NAMESPACES, manifest::to_yaml, spec::INJECT};

/// How long the API server waits for an answer.
const TIMEOUT_SECONDS: u8 = 10;
/// How long a pod that is to stop is still called: until no API server knows its address any more.
const STOP_DELAY: &str = "5s";

/// What manifests are made of.
#[derive(Clone, Debug)]
pub struct Values {
    /// The namespace of the mesh.
    pub namespace: String,
    /// The name of all objects.
    pub name: String,
    /// The image with `outrigger`, also for sidecars.
    pub image: String,
    /// How many pods answer.
    pub replicas: u16,
    /// What is done where neither pod nor namespace says anything.
    pub default: bool,
    /// The port of the webhook.
    pub port: u16,
    /// The port of metrics and readiness.
    pub metrics_port: u16,
    /// Log level or filter.
    pub log_level: String,
}

impl Values {
    /// All objects as YAML, in the order in which they can be applied.
    pub fn yaml(&self) -> String {
        let objects = self.objects();
        let documents = objects.iter().map(to_yaml).collect::<Vec<_>>();
        documents.join("---\n")
    }

    /// All objects, in the order in which they can be applied.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = vec![self.namespace()];
        objects.extend(self.access());
        objects.push(self.service());
        objects.push(self.deployment());
        objects.push(self.disruption_budget());
        // Last: from here on pods wait for an answer.
        objects.push(self.registration());
        objects
    }

    fn labels(&self) -> Value {
        json!({"app.kubernetes.io/name": self.name, "app.kubernetes.io/part-of": "outrigger"})
    }

    fn selector(&self) -> Value {
        json!({"app.kubernetes.io/name": self.name})
    }

    fn object(&self, kind: (&str, &str), is_in_namespace: bool, rest: Value) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), self.name.as_str().into());
        if is_in_namespace {
            metadata.insert("namespace".to_owned(), self.namespace.as_str().into());
        }
        metadata.insert("labels".to_owned(), self.labels());
        let mut object = Map::new();
        object.insert("apiVersion".to_owned(), kind.0.into());
        object.insert("kind".to_owned(), kind.1.into());
        object.insert("metadata".to_owned(), metadata.into());
        if let Value::Object(rest) = rest {
            object.extend(rest);
        }
        object.into()
    }

    fn namespace(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
            }},
        })
    }

    /// The service account, and the least that it needs: its certificates, and to have them trusted.
    fn access(&self) -> [Value; 5] {
        const RBAC: &str = "rbac.authorization.k8s.io/v1";
        let subject = json!([{
            "kind": "ServiceAccount", "name": self.name, "namespace": self.namespace,
        }]);
        let binding = |kind: &str| {
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": self.name},
                "subjects": subject,
            })
        };
        let certificates = json!({"rules": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret(&self.name)],
             "verbs": ["get", "update"]},
            // What is yet to be made has no name that could be told here.
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        ]});
        let trust = json!({"rules": [
            {"apiGroups": ["admissionregistration.k8s.io"],
             "resources": ["mutatingwebhookconfigurations"], "resourceNames": [self.name],
             "verbs": ["get", "patch"]},
        ]});
        [
            self.object(("v1", "ServiceAccount"), true, json!({})),
            self.object((RBAC, "Role"), true, certificates),
            self.object((RBAC, "RoleBinding"), true, binding("Role")),
            self.object((RBAC, "ClusterRole"), false, trust),
            self.object((RBAC, "ClusterRoleBinding"), false, binding("ClusterRole")),
        ]
    }

    fn service(&self) -> Value {
        let spec = json!({"spec": {
            "selector": self.selector(),
            "ports": [{"name": "webhook", "port": 443, "targetPort": "webhook", "protocol": "TCP"}],
        }});
        self.object(("v1", "Service"), true, spec)
    }

    fn deployment(&self) -> Value {
        let word = if self.default { "enabled" } else { "disabled" };
        let probe =
            |path: &str| json!({"httpGet": {"path": path, "port": "metrics"}, "periodSeconds": 5});
        let container = json!({
            "name": "injector",
            "image": self.image,
            "command": ["outrigger"],
            "args": [
                "injector",
                // The pod's own address, of whichever family that is.
                "--bind", "$(POD_IP)",
                "--port", self.port.to_string(),
                "--metrics-port", self.metrics_port.to_string(),
                "--mesh-namespace", self.namespace,
                "--name", self.name,
                "--image", self.image,
                "--default", word,
                "--stop-delay", STOP_DELAY,
                "--log-level", self.log_level,
            ],
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [
                {"name": "webhook", "containerPort": self.port, "protocol": "TCP"},
                {"name": "metrics", "containerPort": self.metrics_port, "protocol": "TCP"},
            ],
            "readinessProbe": probe("/readyz"),
            "livenessProbe": probe("/healthz"),
            "resources": {
                "requests": {"cpu": "50m", "memory": "32Mi"},
                "limits": {"memory": "256Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            },
        });
        let metrics_port = self.metrics_port.to_string();
        let spec = json!({"spec": {
            "replicas": self.replicas,
            "selector": {"matchLabels": self.selector()},
            // No less than all answer while others take their places.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {
                    "labels": self.labels(),
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": metrics_port,
                        "prometheus.io/path": "/metrics",
                    },
                },
                "spec": {
                    "serviceAccountName": self.name,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "topologySpreadConstraints": [{
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": self.selector()},
                    }],
                    "containers": [container],
                },
            },
        }});
        self.object(("apps/v1", "Deployment"), true, spec)
    }

    fn disruption_budget(&self) -> Value {
        let spec = json!({"spec": {
            "minAvailable": 1, "selector": {"matchLabels": self.selector()},
        }});
        self.object(("policy/v1", "PodDisruptionBudget"), true, spec)
    }

    fn registration(&self) -> Value {
        let webhooks = NamespaceLabel::ALL.map(|label| self.webhook(label));
        self.object(
            (
                "admissionregistration.k8s.io/v1",
                "MutatingWebhookConfiguration",
            ),
            false,
            json!({"webhooks": webhooks}),
        )
    }

    /// The webhook for the pods of namespaces whose label says this: a pod is in exactly one's.
    fn webhook(&self, label: NamespaceLabel) -> Value {
        let never = SYSTEM_NAMESPACES
            .into_iter()
            .chain([self.namespace.as_str()])
            .collect::<Vec<_>>();
        let (name, operator, values, may_decide): (_, _, &[&str], _) = match label {
            NamespaceLabel::Enabled => ("enabled", "In", &["enabled", "true"], false),
            NamespaceLabel::Disabled => ("disabled", "In", &["disabled", "false"], true),
            NamespaceLabel::Absent => ("default", "DoesNotExist", &[], !self.default),
            NamespaceLabel::Unknown => (
                "unknown",
                "NotIn",
                &["enabled", "true", "disabled", "false"],
                false,
            ),
        };
        let mut says = Map::new();
        says.insert("key".to_owned(), INJECT.into());
        says.insert("operator".to_owned(), operator.into());
        if !values.is_empty() {
            says.insert("values".to_owned(), json!(values));
        }
        let mut expressions = vec![
            // The API server sets this label, and nobody can change it.
            json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": never}),
            Value::Object(says),
        ];
        if label == NamespaceLabel::Unknown {
            // `NotIn` alone matches also where there is no label.
            expressions.push(json!({"key": INJECT, "operator": "Exists"}));
        }
        let mut webhook = json!({
            "name": format!("{name}.namespace.outrigger.dev"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {
                "name": self.name, "namespace": self.namespace, "path": label.path(), "port": 443,
            }},
            "rules": [{
                "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                "scope": "Namespaced",
            }],
            "namespaceSelector": {"matchExpressions": expressions},
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_SECONDS,
            // Containers that another webhook adds shall not come before the sidecar's.
            "reinvocationPolicy": "IfNeeded",
        });
        // Where only the pod can ask for a sidecar, others are none of our business. A server that does not
        // know conditions yet (before 1.30) asks about all, which gives the same.
        if may_decide && let Some(webhook) = webhook.as_object_mut() {
            let says = |map: &str| {
                format!("(has(object.metadata.{map}) && '{INJECT}' in object.metadata.{map})")
            };
            let expression = format!("{} || {}", says("labels"), says("annotations"));
            let condition = json!([{"name": "pod-says-something", "expression": expression}]);
            webhook.insert("matchConditions".to_owned(), condition);
        }
        webhook
    }
}
