//! Whatever comes in, there is an answer, and what was done can be taken back exactly.

use outrigger_injector::{
    manifest::{Action, Document, Format, parse, rewrite, to_yaml},
    redirect,
    spec::{Origin, Outcome, Settings, inject, uninject},
};
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Names that mean something here, so that chance meets them.
const KEYS: &[&str] = &[
    "metadata",
    "spec",
    "containers",
    "initContainers",
    "volumes",
    "annotations",
    "labels",
    "name",
    "kind",
    "items",
    "template",
    "jobTemplate",
    "lifecycle",
    "preStop",
    "httpGet",
    "tcpSocket",
    "grpc",
    "readinessProbe",
    "livenessProbe",
    "startupProbe",
    "port",
    "ports",
    "host",
    "path",
    "containerPort",
    "securityContext",
    "runAsUser",
    "hostNetwork",
    "restartPolicy",
    "outrigger.dev/inject",
    "outrigger.dev/status",
    "outrigger.dev/cpu",
    "outrigger.dev/drain-time",
    "prometheus.io/scrape",
    "prometheus.io/port",
    "ownerReferences",
    "controller",
    "a",
    "",
];
const WORDS: &[&str] = &[
    "app",
    "Pod",
    "List",
    "PodList",
    "Deployment",
    "CronJob",
    "Never",
    "true",
    "false",
    "enabled",
    "80",
    "on",
    "0644",
    "~",
    "1:30",
    "$(X)",
    "{}",
    "a: b",
    "# no",
    "line\nline\n",
    " lead",
    "\u{85}",
    "é",
    "",
];

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::sample::select(KEYS).prop_map(str::to_owned),
        1 => "[ -~]{0,8}".prop_map(|key| key),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u32..70_000).prop_map(Value::from),
        proptest::sample::select(WORDS).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(6, 60, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Objects that look like pods far enough to be changed.
fn pod() -> impl Strategy<Value = Value> {
    let probe = prop_oneof![
        Just(serde_json::json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 2})),
        Just(serde_json::json!({"timeoutSeconds": 1, "tcpSocket": {"port": "web"}, "z": 1})),
        Just(serde_json::json!({"grpc": {"port": 9}})),
        value(),
    ];
    let container = (probe.clone(), probe, value(), 0_u8..4).prop_map(|(a, b, c, order)| {
        let mut fields = vec![
            ("readinessProbe", a),
            ("lifecycle", serde_json::json!({"preStop": b})),
            ("extra", c),
            (
                "ports",
                serde_json::json!([{"name": "web", "containerPort": 8080}]),
            ),
        ];
        fields.rotate_left(order.into());
        fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Map<_, _>>()
    });
    let list = proptest::collection::vec(container, 1..4);
    let optional = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        Just(Some(Value::Array(Vec::new()))),
    ];
    let annotations = prop_oneof![
        Just(None),
        Just(Some(
            serde_json::json!({"x": "y", "prometheus.io/scrape": "true", "prometheus.io/port": "1"})
        )),
        Just(Some(
            serde_json::json!({"outrigger.dev/native-sidecar": "false"})
        )),
        Just(Some(serde_json::json!({}))),
        Just(Some(Value::Null)),
    ];
    let metadata = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        annotations.prop_map(|annotations| {
            let mut metadata = Map::new();
            metadata.extend(annotations.map(|value| ("annotations".to_owned(), value)));
            metadata.insert("name".to_owned(), "p".into());
            Some(Value::Object(metadata))
        }),
    ];
    (metadata, list, optional.clone(), optional, value()).prop_map(
        |(metadata, list, init, volumes, extra)| {
            let containers = list
                .into_iter()
                .enumerate()
                .map(|(index, mut container)| {
                    container.insert("name".to_owned(), format!("c{index}").into());
                    Value::Object(container)
                })
                .collect::<Vec<_>>();
            let mut spec = Map::new();
            spec.extend(init.map(|value| ("initContainers".to_owned(), value)));
            spec.insert("containers".to_owned(), containers.into());
            spec.extend(volumes.map(|value| ("volumes".to_owned(), value)));
            spec.insert("unknown".to_owned(), extra);
            let mut pod = Map::new();
            pod.extend(metadata.map(|value| ("metadata".to_owned(), value)));
            pod.insert("spec".to_owned(), Value::Object(spec));
            Value::Object(pod)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_injected_can_be_taken_back_exactly(pod in pod()) {
        let settings = Settings::default();
        if let Outcome::Injected(injected) = inject(&pod, &Origin::default(), &settings) {
            let again = inject(&injected.pod, &Origin::default(), &settings);
            prop_assert_eq!(again, Outcome::Skipped("already injected".to_owned()));
            let back = uninject(&injected.pod).unwrap().unwrap();
            prop_assert_eq!(back.to_string(), pod.to_string());
        } else {
            prop_assert!(false, "a pod of this shape is injected");
        }
    }

    #[test]
    fn any_value_gets_an_answer(value in value()) {
        let settings = Settings::default();
        drop(inject(&value, &Origin::default(), &settings));
        drop(uninject(&value));
        let text = to_yaml(&value);
        for action in [Action::Inject(&settings), Action::Uninject] {
            drop(rewrite(&text, action, Format::Yaml));
            drop(rewrite(&text, action, Format::Json));
        }
    }

    #[test]
    fn yaml_comes_back_as_it_was(value in value()) {
        let text = to_yaml(&value);
        let back = parse(&Document { text: &text, line: 1 }).unwrap();
        prop_assert_eq!(back.unwrap_or_default(), value, "{}", text);
    }

    #[test]
    fn any_text_gets_an_answer(text in "([-a-z0-9:?&*!|>%@,'\" \\[\\]{}#~.<\n\t]|kind: Pod\n|---\n|\\PC){0,60}") {
        let settings = Settings::default();
        drop(rewrite(&text, Action::Inject(&settings), Format::Yaml));
    }

    #[test]
    fn any_words_for_redirection_get_an_answer(text in "[-0-9a-f.:/,*+ ]{0,24}") {
        drop(redirect::ports(&text));
        drop(redirect::cidrs(&text));
        drop(redirect::ids(&text));
        drop(redirect::interfaces(&text));
    }
}
