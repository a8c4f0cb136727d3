//! Reviews: what the API server asks about a pod, and what it is told. Pure: bytes in, bytes out, so that a
//! dry run is like any other request.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::patch;
use crate::{
    Problem, decide,
    spec::{self, INJECT, Origin, Outcome, Settings},
};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the label `outrigger.dev/inject` of a pod's namespace says.
///
/// A review does not carry it. The API server matches it by the selectors of the registration, which has one
/// webhook for each of these with a path of its own: so nothing here can be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceLabel {
    /// There is none.
    Absent,
    /// `enabled` or `true`.
    Enabled,
    /// `disabled` or `false`.
    Disabled,
    /// Any other value.
    Unknown,
}

impl NamespaceLabel {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Enabled, Self::Disabled, Self::Absent, Self::Unknown];

    /// The path of its webhook.
    pub fn path(self) -> &'static str {
        match self {
            Self::Absent => "/inject",
            Self::Enabled => "/inject/namespace-enabled",
            Self::Disabled => "/inject/namespace-disabled",
            Self::Unknown => "/inject/namespace-unknown",
        }
    }

    /// The one that has this path.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.path() == path)
    }

    fn value(self) -> Option<&'static str> {
        match self {
            Self::Enabled => Some("enabled"),
            Self::Disabled => Some("disabled"),
            Self::Absent | Self::Unknown => None,
        }
    }
}

/// How reviews end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod gets a sidecar.
    Injected,
    /// It is let in as it is.
    Skipped,
    /// It is not let in.
    Refused,
    /// The request was none.
    Invalid,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Injected, Self::Skipped, Self::Refused, Self::Invalid];

    /// The word in logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
        }
    }
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub verdict: Verdict,
    /// The status of HTTP: 200 has a review in its body, any other a line of text.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The pod, for logs.
    pub pod: String,
    /// Why, for logs.
    pub reason: String,
}

impl Answer {
    /// An answer to what is no review.
    pub fn invalid(status: u16, message: impl Into<String>) -> Self {
        let reason = message.into();
        Self {
            verdict: Verdict::Invalid,
            status,
            body: format!("{reason}\n"),
            pod: String::new(),
            reason,
        }
    }
}

/// What answers reviews.
#[derive(Clone, Debug, Default)]
pub struct Reviewer {
    /// How the mesh injects.
    pub settings: Settings,
    /// What is done where neither the pod nor its namespace says anything.
    pub default: bool,
}

impl Reviewer {
    /// Answers the body of a request. There is an answer to every body.
    pub fn answer(&self, body: &[u8], label: NamespaceLabel) -> Answer {
        let review = match serde_json::from_slice::<Value>(body) {
            Ok(review) => review,
            Err(error) => return Answer::invalid(400, format!("the body is no JSON: {error}")),
        };
        let word = |path: &[&str]| word(&review, path);
        let Some(uid) = word(&["request", "uid"]).filter(|uid| !uid.is_empty()) else {
            return Answer::invalid(
                400,
                format!("request.uid is missing: send a {KIND} of {API_VERSION}"),
            );
        };
        let null = Value::Null;
        let object = review.pointer("/request/object").unwrap_or(&null);
        let namespace = word(&["request", "namespace"])
            .or_else(|| word(&["request", "object", "metadata", "namespace"]))
            .unwrap_or_default();
        let name = [
            &["request", "object", "metadata", "name"][..],
            &["request", "name"],
            &["request", "object", "metadata", "generateName"],
        ]
        .into_iter()
        .find_map(|path| word(path).filter(|name| !name.is_empty()))
        .unwrap_or_default();
        let about = About {
            uid,
            pod: format!("{namespace}/{name}"),
        };

        if (word(&["apiVersion"]), word(&["kind"])) != (Some(API_VERSION), Some(KIND)) {
            let message = format!(
                "{} {}, where a {KIND} of {API_VERSION} is expected",
                word(&["apiVersion"]).unwrap_or("no apiVersion"),
                word(&["kind"]).unwrap_or("no kind"),
            );
            return about.refuse(400, vec![Problem::new("", message)]);
        }
        if let Some(reason) = not_a_new_pod(&review) {
            return about.skip(&reason, Vec::new());
        }
        if object.is_null() {
            return about.refuse(400, vec![Problem::new("request.object", "missing")]);
        }
        let name = name.to_owned();
        self.review(object, name, namespace, label, &about)
    }

    fn review(
        &self,
        pod: &Value,
        name: String,
        namespace: &str,
        label: NamespaceLabel,
        about: &About<'_>,
    ) -> Answer {
        let labels = label.value().map(|value| {
            let mut labels = Map::new();
            labels.insert(INJECT.to_owned(), value.into());
            labels
        });
        let context = decide::Context {
            namespace,
            namespace_labels: labels.as_ref(),
            mesh_namespace: &self.settings.mesh_namespace,
            default: self.default,
        };
        let mut decision = decide::decide(pod, &context);
        if label == NamespaceLabel::Unknown {
            let problem = Problem::new(
                format!("labels[{INJECT}] of the namespace {namespace}"),
                "neither enabled nor disabled",
            );
            decision = match decision {
                Ok(decision) if decision.row == decide::Row::Namespace => Ok(decision),
                Ok(_) => Err(vec![problem]),
                Err(problems) => Err([vec![problem], problems].concat()),
            };
        }
        let decision = match decision {
            Ok(decision) if decision.inject => decision,
            Ok(decision) => return about.skip(&decision.to_string(), Vec::new()),
            Err(problems) => return about.refuse(422, problems),
        };
        let origin = Origin {
            kind: "Pod".to_owned(),
            name,
        };
        match spec::inject(pod, &origin, &self.settings) {
            Outcome::Refused(problems) => about.refuse(422, problems),
            // A second call, after other webhooks, is no news.
            Outcome::Skipped(reason) if reason == spec::ALREADY_INJECTED => {
                about.skip(&reason, Vec::new())
            }
            Outcome::Skipped(reason) => {
                let warning = format!("no sidecar: {reason}");
                about.skip(&reason, vec![warning])
            }
            Outcome::Injected(injected) => {
                let patch = patch::diff(pod, &injected.pod);
                about.inject(&decision.to_string(), &patch, injected.notes)
            }
        }
    }
}

/// What every answer about one pod has.
#[derive(Debug)]
struct About<'a> {
    uid: &'a str,
    pod: String,
}

impl About<'_> {
    fn inject(&self, reason: &str, patch: &[Value], notes: Vec<String>) -> Answer {
        let patch = serde_json::to_vec(patch).unwrap_or_default();
        self.with(
            Verdict::Injected,
            reason,
            notes,
            json!({
                "uid": self.uid,
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": BASE64_STANDARD.encode(patch),
            }),
        )
    }

    fn skip(&self, reason: &str, warnings: Vec<String>) -> Answer {
        let response = json!({"uid": self.uid, "allowed": true});
        self.with(Verdict::Skipped, reason, warnings, response)
    }

    fn refuse(&self, code: u16, problems: Vec<Problem>) -> Answer {
        let problems = problems.iter().map(Problem::to_string).collect::<Vec<_>>();
        let message = problems.join("; ");
        let name = if code == 400 { "BadRequest" } else { "Invalid" };
        let response = json!({
            "uid": self.uid,
            "allowed": false,
            "status": {"code": code, "reason": name, "message": message},
        });
        self.with(Verdict::Refused, &message, Vec::new(), response)
    }

    fn with(
        &self,
        verdict: Verdict,
        reason: &str,
        warnings: Vec<String>,
        mut response: Value,
    ) -> Answer {
        if let Some(response) = response.as_object_mut() {
            let said = format!("{}: {reason}", verdict.word());
            response.insert("auditAnnotations".to_owned(), json!({"decision": said}));
            if !warnings.is_empty() {
                let warnings = warnings
                    .iter()
                    .map(|warning| format!("outrigger: {warning}"))
                    .collect::<Vec<_>>();
                response.insert("warnings".to_owned(), warnings.into());
            }
        }
        let body = json!({"apiVersion": API_VERSION, "kind": KIND, "response": response});
        Answer {
            verdict,
            status: 200,
            body: body.to_string(),
            pod: self.pod.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Why this is not about a pod that is created, if so: a registration that asks for more harms nobody.
fn not_a_new_pod(review: &Value) -> Option<String> {
    let word = |path: &[&str]| word(review, path).unwrap_or_default();
    let resource = word(&["request", "resource", "resource"]);
    if resource != "pods" || !word(&["request", "resource", "group"]).is_empty() {
        return Some(format!("`{resource}` are not pods"));
    }
    let part = word(&["request", "subResource"]);
    if !part.is_empty() {
        return Some(format!("pods/{part} is no pod"));
    }
    let operation = word(&["request", "operation"]);
    (operation != "CREATE").then(|| format!("{operation} creates no pod"))
}

fn word<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter()
        .try_fold(value, |value, part| value.get(part))?
        .as_str()
}
