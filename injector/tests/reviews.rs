//! What the webhook answers: to each kind of review, and to anything else.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use outrigger_injector::{
    decide::SYSTEM_NAMESPACES,
    manifest::{Action, Format, documents, each_pod, parse, rewrite},
    spec::{INJECT, Settings},
    webhook::{
        manifests::Values,
        review::{Answer, NamespaceLabel, Reviewer, Verdict},
    },
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "7f0b",
            "operation": "CREATE",
            "namespace": "shop",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": pod,
        },
    })
}

fn pod() -> Value {
    json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app"}]}})
}

fn ask(review: &Value, label: NamespaceLabel) -> (Answer, Value) {
    let answer = Reviewer::default().answer(review.to_string().as_bytes(), label);
    let body = serde_json::from_str(&answer.body).unwrap_or_default();
    (answer, body)
}

/// The pod as the API server stores it.
fn patched(pod: &Value, answer: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(patch) = answer["response"]["patch"].as_str() {
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD.decode(patch).expect("a patch is base64");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("it is JSON");
        json_patch::patch(&mut pod, &patch).expect("it fits");
    }
    pod
}

#[test]
fn a_pod_gets_its_sidecar_by_a_patch() {
    let (answer, body) = ask(&review(&pod()), NamespaceLabel::Enabled);
    assert_eq!((answer.verdict, answer.status), (Verdict::Injected, 200));
    assert_eq!(answer.pod, "shop/web-");
    let response = &body["response"];
    assert_eq!(body["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(
        (&response["uid"], &response["allowed"]),
        (&json!("7f0b"), &json!(true))
    );
    assert_eq!(
        response["auditAnnotations"]["decision"],
        "injected: sidecar: namespace label outrigger.dev/inject: enabled (rule 4)"
    );
    assert!(!response["warnings"].as_array().unwrap().is_empty());
    let pod = patched(&pod(), &body);
    assert_eq!(pod["spec"]["containers"], json!([{"name": "app"}]));
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "outrigger-proxy");
    // A second call, after another webhook's.
    let (again, body) = ask(&review(&pod), NamespaceLabel::Enabled);
    assert_eq!(again.verdict, Verdict::Skipped);
    assert_eq!(body["response"].get("warnings"), None);
    assert_eq!(body["response"].get("patch"), None);
}

#[test]
fn every_golden_pod_is_patched_to_what_the_command_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let settings = Settings::default();
    let mut seen = [0; 3];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(".in.yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for value in documents(&text).iter().filter_map(|one| parse(one).ok()?) {
            each_pod(&value, &mut |_, namespace, template| {
                let mut pod = template.clone();
                let Some(object) = pod.as_object_mut() else {
                    return;
                };
                object.insert("apiVersion".to_owned(), "v1".into());
                object.insert("kind".to_owned(), "Pod".into());
                let alone = rewrite(&pod.to_string(), Action::Inject(&settings), Format::Json);
                let mut review = review(&pod);
                if !namespace.is_empty() {
                    review["request"]["namespace"] = namespace.into();
                }
                let (answer, body) = ask(&review, NamespaceLabel::Enabled);
                let name = path.display();
                if SYSTEM_NAMESPACES.contains(&namespace) {
                    assert_eq!(answer.verdict, Verdict::Skipped, "{name}");
                } else if alone.is_fine() {
                    let expected: Value = serde_json::from_str(&alone.text).unwrap();
                    assert_eq!(patched(&pod, &body), expected, "{name}");
                    let is_changed = expected != pod;
                    assert_eq!(answer.verdict == Verdict::Injected, is_changed, "{name}");
                    seen[usize::from(is_changed)] += 1;
                } else {
                    assert_eq!(answer.verdict, Verdict::Refused, "{name}");
                    let message = &body["response"]["status"]["message"];
                    let message = message.as_str().unwrap();
                    for problem in alone.items[0].to_string().lines().skip(1) {
                        let problem = problem.trim();
                        assert!(message.contains(problem), "{name}: {problem}: {message}");
                    }
                    seen[2] += 1;
                }
            });
        }
    }
    assert!(seen.iter().all(|count| *count >= 4), "{seen:?}");
}

#[test]
fn the_namespaces_label_comes_by_the_path() {
    let with = |map: &str, word: &str| {
        let mut pod = pod();
        pod["metadata"][map] = json!({INJECT: word});
        pod
    };
    let cases = [
        (pod(), NamespaceLabel::Absent, Verdict::Skipped),
        (pod(), NamespaceLabel::Disabled, Verdict::Skipped),
        (pod(), NamespaceLabel::Unknown, Verdict::Refused),
        (
            with("labels", "true"),
            NamespaceLabel::Absent,
            Verdict::Injected,
        ),
        (
            with("annotations", "enabled"),
            NamespaceLabel::Disabled,
            Verdict::Injected,
        ),
        (
            with("labels", "enabled"),
            NamespaceLabel::Unknown,
            Verdict::Refused,
        ),
        (
            with("labels", "disabled"),
            NamespaceLabel::Enabled,
            Verdict::Skipped,
        ),
        (
            with("annotations", "enable"),
            NamespaceLabel::Absent,
            Verdict::Refused,
        ),
    ];
    for (pod, label, verdict) in cases {
        let (answer, _) = ask(&review(&pod), label);
        assert_eq!(answer.verdict, verdict, "{pod} {label:?}");
        // Whatever it is registered for.
        for namespace in [
            "kube-system",
            "kube-public",
            "kube-node-lease",
            "outrigger-system",
        ] {
            let mut review = review(&pod);
            review["request"]["namespace"] = namespace.into();
            assert_eq!(
                ask(&review, label).0.verdict,
                Verdict::Skipped,
                "{namespace}"
            );
        }
    }
    for label in NamespaceLabel::ALL {
        assert_eq!(NamespaceLabel::of_path(label.path()), Some(label));
    }
    let of_mesh = Reviewer {
        default: true,
        ..Reviewer::default()
    };
    let answer = of_mesh.answer(
        review(&pod()).to_string().as_bytes(),
        NamespaceLabel::Absent,
    );
    assert_eq!(answer.verdict, Verdict::Injected);
}

#[test]
fn refusals_name_the_annotation_and_the_right_one() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"outrigger.dev/log-levl": "debug"});
    let (answer, body) = ask(&review(&pod), NamespaceLabel::Enabled);
    assert_eq!((answer.verdict, answer.status), (Verdict::Refused, 200));
    let response = &body["response"];
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 422);
    let message = response["status"]["message"].as_str().unwrap();
    for part in [
        "metadata.annotations[outrigger.dev/log-levl]",
        "outrigger.dev/log-level?",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(response.get("patch"), None);
}

#[test]
fn what_was_asked_for_and_is_impossible_is_a_warning() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = true.into();
    let (answer, body) = ask(&review(&pod), NamespaceLabel::Enabled);
    assert_eq!(answer.verdict, Verdict::Skipped);
    let warning = body["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("no sidecar: hostNetwork"), "{warning}");
}

#[test]
fn other_requests_are_answered_too() {
    let change = |pointer: &str, value: Value| {
        let mut review = review(&pod());
        *review.pointer_mut(pointer).unwrap() = value;
        ask(&review, NamespaceLabel::Enabled).0
    };
    for (pointer, value, verdict, said) in [
        (
            "/apiVersion",
            json!("admission.k8s.io/v1beta1"),
            Verdict::Refused,
            "v1beta1",
        ),
        ("/kind", json!("Review"), Verdict::Refused, "Review, where"),
        (
            "/request/object",
            json!(null),
            Verdict::Refused,
            "request.object: missing",
        ),
        ("/request/object", json!(3), Verdict::Refused, "not a pod"),
        (
            "/request/operation",
            json!("UPDATE"),
            Verdict::Skipped,
            "UPDATE creates no pod",
        ),
        (
            "/request/resource/resource",
            json!("services"),
            Verdict::Skipped,
            "not pods",
        ),
        (
            "/request/uid",
            json!(""),
            Verdict::Invalid,
            "request.uid is missing",
        ),
        (
            "/request",
            json!([]),
            Verdict::Invalid,
            "request.uid is missing",
        ),
    ] {
        let answer = change(pointer, value);
        assert_eq!(answer.verdict, verdict, "{pointer}");
        assert!(answer.reason.contains(said), "{}", answer.reason);
        let status = if verdict == Verdict::Invalid {
            400
        } else {
            200
        };
        assert_eq!(answer.status, status);
    }
    for body in [
        &b""[..],
        b"{",
        b"\xff",
        b"[]",
        b"null",
        "[".repeat(10_000).as_bytes(),
    ] {
        let answer = Reviewer::default().answer(body, NamespaceLabel::Enabled);
        assert_eq!((answer.verdict, answer.status), (Verdict::Invalid, 400));
        assert!(answer.body.ends_with('\n') && answer.body.len() > 10);
    }
}

#[test]
fn manifests_are_registered_for_no_namespace_of_the_system() {
    let values = Values {
        namespace: "mesh".to_owned(),
        name: "injector".to_owned(),
        image: "registry.test/outrigger:1".to_owned(),
        replicas: 2,
        default: false,
        port: 15017,
        metrics_port: 15014,
        log_level: "info".to_owned(),
    };
    let objects = values.objects();
    let kinds = objects.iter().map(|one| one["kind"].as_str().unwrap());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [
            "Namespace",
            "ServiceAccount",
            "Role",
            "RoleBinding",
            "ClusterRole",
            "ClusterRoleBinding",
            "Service",
            "Deployment",
            "PodDisruptionBudget",
            "MutatingWebhookConfiguration",
        ]
    );
    let text = values.yaml();
    let read = documents(&text)
        .iter()
        .filter_map(|one| parse(one).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(read, objects);
    let webhooks = objects[9]["webhooks"].as_array().unwrap();
    for webhook in webhooks {
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert_eq!(webhook["sideEffects"], "None");
        let never = &webhook["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(never["key"], "kubernetes.io/metadata.name");
        assert_eq!(
            never["values"],
            json!(["kube-system", "kube-public", "kube-node-lease", "mesh"])
        );
    }
    let conditions = |values: &Values| {
        let registration = values.objects().pop().unwrap();
        let webhooks = registration["webhooks"].as_array().unwrap().clone();
        let has = webhooks
            .iter()
            .map(|one| one.get("matchConditions").is_some());
        has.collect::<Vec<_>>()
    };
    assert_eq!(conditions(&values), [false, true, true, false]);
    let by_default = Values {
        default: true,
        ..values
    };
    assert_eq!(conditions(&by_default), [false, true, false, false]);
}

fn any_value() -> impl Strategy<Value = Value> {
    let keys = proptest::sample::select(vec![
        "apiVersion",
        "kind",
        "request",
        "uid",
        "object",
        "operation",
        "resource",
        "group",
        "namespace",
        "name",
        "metadata",
        "spec",
        "containers",
        "annotations",
        "labels",
        "hostNetwork",
        INJECT,
        "outrigger.dev/cpu",
        "",
    ]);
    let words = proptest::sample::select(vec![
        "admission.k8s.io/v1",
        "AdmissionReview",
        "CREATE",
        "pods",
        "enabled",
        "x",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        words.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let pairs = proptest::collection::vec((keys.clone(), inner.clone()), 0..6);
        prop_oneof![
            proptest::collection::vec(inner, 0..3).prop_map(Value::from),
            pairs.prop_map(|pairs| {
                let pairs = pairs
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value));
                Value::Object(pairs.collect::<Map<_, _>>())
            }),
        ]
    })
}

/// A well-formed answer: of HTTP, or about this very request.
fn check(review: &Value, label: NamespaceLabel) {
    let (answer, body) = ask(review, label);
    if answer.status != 200 {
        assert_eq!(answer.verdict, Verdict::Invalid);
        return;
    }
    let response = &body["response"];
    assert_eq!(response["uid"], review["request"]["uid"]);
    let is_allowed = response["allowed"].as_bool().expect("it says");
    assert_eq!(is_allowed, answer.verdict != Verdict::Refused);
    let message = response["status"]["message"].as_str().unwrap_or_default();
    assert_eq!(is_allowed, message.is_empty());
    let pod = &review["request"]["object"];
    let changed = patched(pod, &body);
    assert_eq!(changed != *pod, answer.verdict == Verdict::Injected);
}

proptest! {
    #[test]
    fn any_value_gets_an_answer(value in any_value(), label in 0_usize..4) {
        check(&value, NamespaceLabel::ALL[label]);
    }

    #[test]
    fn any_review_of_a_pod_gets_an_answer(value in any_value(), place in 0_usize..7, label in 0_usize..4) {
        let mut review = review(&pod());
        let pointer = [
            "/request/object", "/request/object/metadata", "/request/object/spec",
            "/request/object/spec/containers/0", "/request/namespace", "/request/resource", "/kind",
        ][place];
        *review.pointer_mut(pointer).unwrap() = value;
        check(&review, NamespaceLabel::ALL[label]);
    }
}
