//! `outrigger check-inject`: explains for each pod of a manifest whether it gets a sidecar, and why.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use outrigger_injector::{
    Problem, decide,
    manifest::{documents, each_pod, parse},
    spec::{INJECT, Origin, Outcome, Settings, inject},
};
use serde_json::{Map, Value, json};

use super::inject::{MeshArgs, read};

/// Explain for each pod of a manifest whether it gets a sidecar
///
/// Namespaces in the same manifest are known by their labels; `--namespace-label` says what others have.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// File of any number of YAML or JSON documents; `-` is standard input
    file: PathBuf,

    /// Namespace of pods that do not say theirs
    #[arg(short, long, default_value = "default")]
    namespace: String,

    /// Value of the label `outrigger.dev/inject` of namespaces that are not in the manifest
    #[arg(long, value_name = "VALUE")]
    namespace_label: Option<String>,

    /// What the mesh does where neither pod nor namespace says anything
    #[arg(long, value_name = "WORD", default_value = "disabled")]
    default: Word,

    /// Output format
    #[arg(short, long, default_value = "table")]
    output: Output,

    #[command(flatten)]
    mesh: MeshArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    Enabled,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

struct Answer {
    object: String,
    inject: bool,
    refused: bool,
    reasons: Vec<String>,
}

/// Runs the command: success means that nothing would be refused.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = read(&args.file)?;
    let mut values = Vec::new();
    for document in documents(&text) {
        values.extend(parse(&document).map_err(anyhow::Error::msg)?);
    }
    let namespaces = values
        .iter()
        .filter(|value| word(value, &["kind"]) == "Namespace")
        .map(|value| {
            let labels = value
                .get("metadata")
                .and_then(|metadata| metadata.get("labels"));
            let labels = labels
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            (word(value, &["metadata", "name"]).to_owned(), labels)
        })
        .collect::<BTreeMap<_, _>>();
    let settings = args.mesh.settings();
    let mut answers = Vec::new();
    for value in &values {
        each_pod(value, &mut |origin, namespace, pod| {
            let namespace = match namespace {
                "" => args.namespace.as_str(),
                namespace => namespace,
            };
            let labels = namespaces.get(namespace).cloned().or_else(|| {
                let mut labels = Map::new();
                labels.insert(INJECT.to_owned(), args.namespace_label.clone()?.into());
                Some(labels)
            });
            let context = decide::Context {
                namespace,
                namespace_labels: labels.as_ref(),
                mesh_namespace: &settings.mesh_namespace,
                default: args.default == Word::Enabled,
            };
            answers.push(answer(pod, origin, &context, &settings));
        });
    }
    print(&answers, args.output)?;
    let refused = answers.iter().any(|answer| answer.refused);
    Ok(if refused {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn answer(
    pod: &Value,
    origin: &Origin,
    context: &decide::Context<'_>,
    settings: &Settings,
) -> Answer {
    let object = format!("{} {}/{}", origin.kind, context.namespace, origin.name);
    let refused = |problems: Vec<Problem>| Answer {
        object: object.clone(),
        inject: false,
        refused: true,
        reasons: problems.iter().map(Problem::to_string).collect(),
    };
    let decision = match decide::decide(pod, context) {
        Ok(decision) => decision,
        Err(problems) => return refused(problems),
    };
    let mut reasons = vec![decision.to_string()];
    if !decision.inject {
        return Answer {
            object,
            inject: false,
            refused: false,
            reasons,
        };
    }
    match inject(pod, origin, settings) {
        Outcome::Refused(problems) => refused(problems),
        Outcome::Skipped(reason) => {
            reasons.push(format!("but it is skipped: {reason}"));
            Answer {
                object,
                inject: false,
                refused: false,
                reasons,
            }
        }
        Outcome::Injected(injected) => {
            reasons.extend(
                injected
                    .changes
                    .into_iter()
                    .map(|change| format!("+ {change}")),
            );
            reasons.extend(injected.notes.into_iter().map(|note| format!("! {note}")));
            Answer {
                object,
                inject: true,
                refused: false,
                reasons,
            }
        }
    }
}

fn print(answers: &[Answer], output: Output) -> anyhow::Result<()> {
    let all = answers
        .iter()
        .map(|answer| {
            let Answer {
                object,
                inject,
                refused,
                reasons,
            } = answer;
            json!({"object": object, "inject": inject, "refused": refused, "reasons": reasons})
        })
        .collect::<Vec<_>>();
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&all)?),
        Output::Yaml => print!("{}", serde_norway::to_string(&all)?),
        Output::Table => {
            for answer in answers {
                let verdict = match answer {
                    Answer { refused: true, .. } => "refused",
                    Answer { inject: true, .. } => "gets a sidecar",
                    Answer { .. } => "gets none",
                };
                println!("{}: {verdict}", answer.object);
                for reason in &answer.reasons {
                    println!("  {reason}");
                }
            }
            if answers.is_empty() {
                println!("no pods");
            }
        }
    }
    Ok(())
}

fn word<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter()
        .try_fold(value, |value, part| value.get(part))
        .and_then(Value::as_str)
        .unwrap_or_default()
}
