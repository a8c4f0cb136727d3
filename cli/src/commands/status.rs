//! `outrigger status`: proxies and objects, as the control plane knows them.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets};
use http::uri::Authority;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::limits;
use crate::http_client;

/// Show proxies with their versions and rejections, and objects with their conditions
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where the control plane's API is served
    #[arg(
        long,
        env = "OUTRIGGER_SERVER",
        default_value = "http://127.0.0.1:15080",
        value_name = "URL"
    )]
    server: String,
    /// Only this: everything by default
    #[arg(value_enum)]
    what: Option<What>,
    /// Also ask the admin endpoint of a proxy that the control plane does not know, for `limits`
    #[arg(long, value_name = "HOST:PORT", value_parser = limits::parse_admin)]
    admin: Vec<Authority>,
    /// Show limits too that are not in use and never refused anything
    #[arg(long)]
    all: bool,
    /// Output format
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Connected proxies
    Proxies,
    /// Objects and their conditions
    Objects,
    /// What became of each change
    Changes,
    /// Circuit breakers and bulkheads: used, limit, last refusal
    Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

/// Runs the command: it fails if a proxy refuses its configuration or a file is not valid.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let get = |path: &str| {
        let url = format!("{}/api/v1/{path}", args.server.trim_end_matches('/'));
        async move { http_client::get_json(&url).await }
    };
    // A proxy can be asked without a control plane.
    let wants_limits = matches!(args.what, None | Some(What::Limits));
    let status = match get("status").await {
        Err(error) if wants_limits && !args.admin.is_empty() => {
            return without_control_plane(&args, &error).await;
        }
        status => status?,
    };
    let limits = if wants_limits {
        let mut proxies = limits::of_status(&status);
        limits::add_named(&mut proxies, &args.admin);
        limits::ask(proxies).await
    } else {
        Value::Null
    };
    let objects = get("objects").await?;
    let changes = get("changes").await?;
    let wants = |what| args.what.is_none_or(|wanted| wanted == what);
    let all = json!({
        "version": status["version"],
        "proxies": wants(What::Proxies).then_some(&status["proxies"]),
        "objects": wants(What::Objects).then_some(&objects["objects"]),
        "changes": wants(What::Changes).then_some(&changes["changes"]),
        "limits": wants(What::Limits).then_some(&limits),
        "findings": status["findings"],
    });
    match args.output {
        Output::Json | Output::Yaml => print(&all, args.output)?,
        Output::Table => {
            let mut parts = Vec::new();
            if wants(What::Proxies) {
                parts.push(proxies(&status));
            }
            if wants(What::Objects) {
                parts.push(self::objects(&objects));
            }
            if wants(What::Changes) {
                parts.push(self::changes(&changes));
            }
            if wants(What::Limits) {
                parts.push(limits::table(&limits, args.all, Timestamp::now()));
            }
            parts.push(findings(&status));
            parts.retain(|part| !part.is_empty());
            println!("{}", parts.join("\n\n"));
        }
    }
    let refused = list(&status["proxies"]).any(|proxy| rejection(proxy).is_some());
    let broken = list(&status["findings"]).any(|finding| finding["severity"] == "error");
    Ok(if refused || broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The limits of the proxies that the user names: it fails if none of them answers.
async fn without_control_plane(args: &Args, error: &anyhow::Error) -> anyhow::Result<ExitCode> {
    eprintln!("{error:#}");
    let mut proxies = Vec::new();
    limits::add_named(&mut proxies, &args.admin);
    let limits = limits::ask(proxies).await;
    match args.output {
        Output::Table => println!("{}", limits::table(&limits, args.all, Timestamp::now())),
        output => print(&json!({"limits": limits}), output)?,
    }
    Ok(if limits::has_answer(&limits) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(all: &Value, output: Output) -> anyhow::Result<()> {
    if output == Output::Yaml {
        print!("{}", serde_norway::to_string(all)?);
    } else {
        println!("{}", serde_json::to_string_pretty(all)?);
    }
    Ok(())
}

fn proxies(status: &Value) -> String {
    let mut table = new_table(["PROXY", "CONNECTED SINCE", "FORM", "VERSION", "IN SYNC"]);
    let mut rejections = Vec::new();
    for proxy in list(&status["proxies"]) {
        let in_sync = match (rejection(proxy), proxy["in_sync"].as_bool()) {
            (Some(_), _) => "refused",
            (None, Some(true)) => "yes",
            (None, _) => "waiting",
        };
        if let Some(rejection) = rejection(proxy) {
            rejections.push(format!("{} refuses {rejection}", text(&proxy["id"])));
        }
        let connected = text(&proxy["connected_at"]);
        let connected = connected
            .split('.')
            .next()
            .unwrap_or_default()
            .replace('T', " ");
        table.add_row([
            text(&proxy["id"]),
            connected,
            text(&proxy["form"]),
            format!("{} of {}", proxy["model_version"], status["version"]),
            in_sync.to_owned(),
        ]);
    }
    let head = format!(
        "{} proxies connected, {} in sync with version {}",
        status["connected"], status["in_sync"], status["version"]
    );
    let mut parts = vec![head];
    if status["connected"] != 0 {
        parts.push(table.to_string());
    }
    parts.extend(rejections);
    parts.join("\n")
}

/// The first refusal of a proxy, with its type.
fn rejection(proxy: &Value) -> Option<String> {
    list(&proxy["types"]).find_map(|kind| {
        let message = kind["rejection"]["message"].as_str()?;
        Some(format!("{}: {message}", text(&kind["type"])))
    })
}

fn objects(objects: &Value) -> String {
    let mut table = new_table([
        "OBJECT",
        "PARENT",
        "ACCEPTED",
        "RESOLVED",
        "PROGRAMMED",
        "WHY",
    ]);
    for object in list(&objects["objects"]) {
        let own = [json!({"parent": "", "conditions": object["conditions"]})];
        let parents = object["parents"]
            .as_array()
            .filter(|parents| !parents.is_empty());
        for parent in parents.map_or(&own[..], Vec::as_slice) {
            let status = |kind: &str| {
                list(&parent["conditions"])
                    .find(|condition| condition["type"] == kind)
                    .map(|condition| text(&condition["status"]))
                    .unwrap_or_default()
            };
            let mut why: Vec<_> = list(&parent["conditions"])
                .filter(|condition| condition["status"] != "True")
                .map(|c| format!("{}: {}", text(&c["reason"]), text(&c["message"])))
                .collect();
            why.extend(note(parent));
            let counts = list(&parent["conditions"])
                .find(|condition| {
                    condition["type"] == "Programmed" && condition["status"] == "True"
                })
                .map(|condition| format!(", {}", text(&condition["message"])))
                .unwrap_or_default();
            table.add_row([
                text(&object["object"]),
                text(&parent["parent"]),
                status("Accepted"),
                status("ResolvedRefs"),
                status("Programmed") + &counts,
                why.join("; "),
            ]);
        }
    }
    table.to_string()
}

/// What is to be known of an attachment that is in force, such as until when.
fn note(parent: &Value) -> Option<String> {
    let accepted = list(&parent["conditions"])
        .find(|condition| condition["type"] == "Accepted" && condition["status"] == "True")?;
    let is_attached = !text(&parent["parent"]).is_empty();
    let message = text(&accepted["message"]);
    (is_attached && !message.is_empty()).then_some(message)
}

fn changes(changes: &Value) -> String {
    let mut table = new_table([
        "VERSION", "AT", "OBJECTS", "PROXIES", "ACKED", "REFUSED", "TOOK",
    ]);
    for change in list(&changes["changes"]).take(10) {
        let names: Vec<_> = list(&change["objects"]).map(text).collect();
        let (shown, rest) = names.split_at(names.len().min(3));
        let more = if rest.is_empty() {
            String::new()
        } else {
            format!(" and {} more", rest.len())
        };
        let took = change["ack_ms"]
            .as_f64()
            .map(|ms| format!("{ms:.0} ms"))
            .unwrap_or_default();
        table.add_row([
            change["version"].to_string(),
            text(&change["noticed_at"])
                .split('.')
                .next()
                .unwrap_or_default()
                .replace('T', " "),
            shown.join(", ") + &more,
            change["proxies"].to_string(),
            change["acked"].to_string(),
            list(&change["rejected"]).count().to_string(),
            took,
        ]);
    }
    table.to_string()
}

fn findings(status: &Value) -> String {
    let lines: Vec<_> = list(&status["findings"])
        .map(|finding| {
            let line = finding["line"]
                .as_u64()
                .map(|line| format!(":{line}"))
                .unwrap_or_default();
            let parts: Vec<_> = ["object", "path", "message"]
                .iter()
                .map(|field| text(&finding[*field]))
                .filter(|part| !part.is_empty())
                .collect();
            let severity = text(&finding["severity"]);
            format!(
                "{}{line}: {severity}: {}",
                text(&finding["file"]),
                parts.join(": ")
            )
        })
        .collect();
    lines.join("\n")
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_in_the_proxys_own_words() {
        let status = json!({
            "version": 3, "connected": 1, "in_sync": 0,
            "proxies": [{
                "id": "p1", "form": "delta", "model_version": 2, "in_sync": false,
                "connected_at": "2026-01-02T03:04:05.123456Z",
                "types": [
                    {"type": "CDS", "rejection": null},
                    {"type": "RDS", "rejection": {"message": "virtual_hosts[0]: no"}},
                ],
            }],
            "findings": [{"file": "a.yaml", "line": 3, "severity": "error", "path": "spec", "message": "bad"}],
        });
        let shown = proxies(&status);
        assert!(
            shown.starts_with("1 proxies connected, 0 in sync with version 3\n"),
            "{shown}"
        );
        assert!(shown.contains("2026-01-02 03:04:05"), "{shown}");
        assert!(shown.contains("2 of 3"), "{shown}");
        assert!(
            shown.ends_with("p1 refuses RDS: virtual_hosts[0]: no"),
            "{shown}"
        );
        assert_eq!(findings(&status), "a.yaml:3: error: spec: bad");
    }

    #[test]
    fn objects_are_shown_per_parent_with_what_is_not_met() {
        let shown = objects(&json!({"objects": [{
            "object": "HTTPRoute/shop/r",
            "conditions": [],
            "parents": [{"parent": "Service/shop/web", "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""},
                {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no Service/shop/x"},
            ]}],
        }]}));
        assert!(shown.contains("Service/shop/web"), "{shown}");
        assert!(
            shown.contains("BackendNotFound: no Service/shop/x"),
            "{shown}"
        );
        let shown = objects(&json!({"objects": [{
            "object": "FaultPolicy/shop/slow",
            "conditions": [],
            "parents": [{"parent": "Service/shop/web", "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "until 2026-01-02T03:04:05Z"},
                {"type": "Programmed", "status": "True", "reason": "Programmed", "message": "3 of 3 proxies"},
            ]}],
        }]}));
        assert!(shown.contains("True, 3 of 3 proxies"), "{shown}");
        assert!(shown.contains("until 2026-01-02T03:04:05Z"), "{shown}");
    }
}
