//! The support table: what the conversions say of each message's fields.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::{FieldInfo, envoy::config::bootstrap::v3::Bootstrap};
use serde_json::Value;

use crate::convert::{Sink, Status};

/// A bootstrap in which every message occurs that we convert.
const SAMPLE: &str = include_str!("sample.yaml");

/// Messages by name, each with all of its fields; a field without status is supported.
pub type Table = BTreeMap<String, Vec<(&'static str, Option<Status>)>>;

/// Converts the sample and tells what was said of every field of every message on the way.
///
/// # Errors
/// Where the sample is refused, or sets neither nor refuses a way that a message leaves open.
pub fn support_table() -> Result<Table, Vec<String>> {
    let text = |error: &dyn std::fmt::Display| vec![error.to_string()];
    let all = |errors: Vec<_>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let value = outrigger_proto::parse_yaml(SAMPLE).map_err(|error| text(&error))?;
    let mut used = BTreeSet::new();
    walk("envoy.config.bootstrap.v3.Bootstrap", &value, &mut used);
    let message = outrigger_proto::message_from_value::<Bootstrap>(value).map_err(all)?;
    let sink = Sink::recording();
    let converted = super::bootstrap(&sink.root(""), message);
    let recorder = sink.recorder();
    sink.finish(converted).map_err(all)?;
    let mut table = Table::new();
    let mut open = Vec::new();
    for (message, said) in recorder.messages() {
        let Some(fields) = outrigger_proto::fields(message) else {
            open.push(format!("{message}: not in the schema"));
            continue;
        };
        for name in said.keys() {
            let is_known = |field: &FieldInfo| field.name == name || field.oneof == Some(name);
            if !fields.iter().any(is_known) {
                open.push(format!("{message}.{name}: no such field"));
            }
        }
        let mut rows = Vec::with_capacity(fields.len());
        for field in fields {
            let status = said
                .get(field.name)
                .or_else(|| said.get(field.oneof?))
                .copied();
            let is_used = used.contains(&(message.clone(), field.name.to_owned()));
            if status.is_none() && field.oneof.is_some() && !is_used {
                open.push(format!(
                    "{message}.{}: not in the sample, and not said to be refused",
                    field.name
                ));
            }
            rows.push((field.name, status));
        }
        table.insert(message.clone(), rows);
    }
    if open.is_empty() {
        Ok(table)
    } else {
        Err(open)
    }
}

/// The table as a page of documentation.
///
/// # Errors
/// As [`support_table`].
pub fn support_page() -> Result<String, Vec<String>> {
    let table = support_table()?;
    let count = |wanted: fn(&Option<Status>) -> bool| {
        table
            .values()
            .flatten()
            .filter(|(_, status)| wanted(status))
            .count()
    };
    let mut page = format!(
        "# What is supported of Envoy's configuration\n\n\
         Generated from the conversions in `proxy/src/config/from_proto` by\n\
         `cargo run -p outrigger-proxy --example support_table > docs/envoy-support.md`; do not edit.\n\n\
         Of {} messages, {} fields are supported, {} in part, {} are accepted without effect and {} are\n\
         refused when they are set: at start-up with exit code 1, over xDS with a NACK, always with the\n\
         field's path. A message that is not listed can only be set through a field that is refused.\n",
        table.len(),
        count(|status| status.is_none()),
        count(|status| matches!(status, Some(Status::Partly(_)))),
        count(|status| matches!(status, Some(Status::NoEffect(_)))),
        count(|status| matches!(status, Some(Status::Rejected))),
    );
    for (message, fields) in &table {
        page.push_str(&format!("\n## {message}\n\n| field | |\n|---|---|\n"));
        for (name, status) in fields {
            let said = match status {
                None => "supported".to_owned(),
                Some(Status::Partly(what)) => format!("in part: {what}"),
                Some(Status::NoEffect(why)) => format!("no effect: {why}"),
                Some(Status::Rejected) => "refused".to_owned(),
            };
            page.push_str(&format!("| `{name}` | {said} |\n"));
        }
        if fields.is_empty() {
            page.push_str("| (none) | supported |\n");
        }
    }
    Ok(page)
}

/// Notes which fields of which messages are set.
fn walk(message: &str, value: &Value, used: &mut BTreeSet<(String, String)>) {
    let Some(object) = value.as_object() else {
        return;
    };
    let typed = object.get("@type").and_then(Value::as_str);
    let message = typed
        .and_then(|url| url.rsplit('/').next())
        .unwrap_or(message);
    let fields = outrigger_proto::fields(message).unwrap_or_default();
    for field in fields {
        let Some(inner) = object.get(field.name) else {
            continue;
        };
        used.insert((message.to_owned(), field.name.to_owned()));
        let Some(of) = field.message else { continue };
        match inner {
            Value::Array(items) => items.iter().for_each(|item| walk(of, item, used)),
            Value::Object(entries) if field.is_map => {
                entries.values().for_each(|entry| walk(of, entry, used));
            }
            one => walk(of, one, used),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{support_page, support_table};
    use crate::convert::Status;

    #[test]
    fn table_knows_supported_and_refused_fields() {
        let table = support_table().unwrap_or_else(|open| panic!("{open:#?}"));
        let of = |message: &str, field: &str| {
            let rows = &table[message];
            rows.iter().find(|(name, _)| *name == field).unwrap().1
        };
        let cluster = "envoy.config.cluster.v3.Cluster";
        assert_eq!(of(cluster, "lb_subset_config"), Some(Status::Rejected));
        assert_eq!(of(cluster, "connect_timeout"), None);
        assert!(matches!(of(cluster, "metadata"), Some(Status::Partly(_))));
        let listener = "envoy.config.listener.v3.Listener";
        assert!(matches!(of(listener, "metadata"), Some(Status::Partly(_))));
        assert!(matches!(
            of(listener, "bypass_overload_manager"),
            Some(Status::NoEffect(_))
        ));
        assert!(matches!(of(cluster, "type"), Some(Status::Partly(_))));
    }

    /// Every message that a conversion says it takes is in the table.
    #[test]
    fn table_has_every_converted_message() {
        let table = support_table().unwrap_or_else(|open| panic!("{open:#?}"));
        let known = table
            .keys()
            .filter_map(|name| name.rsplit('.').next())
            .map(str::to_ascii_lowercase)
            .collect::<Vec<_>>();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut checked = 0;
        let mut folders = vec![root];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "rs")
                    || path.ends_with("support.rs")
                {
                    continue;
                }
                let source = std::fs::read_to_string(&path).unwrap();
                for (_, rest) in source
                    .match_indices("converts::<")
                    .map(|(at, _)| source.split_at(at))
                {
                    let alias = rest
                        .trim_start_matches("converts::<")
                        .split('>')
                        .next()
                        .unwrap();
                    let alias = alias.rsplit("::").next().unwrap();
                    let renamed = format!(" as {alias}");
                    let name = source
                        .match_indices(&renamed)
                        .map(|(at, found)| source.split_at(at + found.len()))
                        .find(|(_, after)| !after.starts_with(char::is_alphanumeric))
                        .and_then(|(before, _)| before.strip_suffix(&renamed))
                        .and_then(|before| before.rsplit(|c: char| !c.is_alphanumeric()).next())
                        .unwrap_or(alias)
                        .to_ascii_lowercase();
                    if matches!(alias, "M" | "") || !rest.starts_with("converts::<") {
                        continue;
                    }
                    checked += 1;
                    assert!(
                        known.contains(&name),
                        "{}: {alias} ({name})",
                        path.display()
                    );
                }
            }
        }
        assert!(checked > 60, "only {checked} found");
    }

    #[test]
    fn page_is_fresh() {
        let page = support_page().unwrap_or_else(|open| panic!("{open:#?}"));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/envoy-support.md");
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == written,
            "docs/envoy-support.md is stale; make it anew:\n\
             cargo run -p outrigger-proxy --example support_table > docs/envoy-support.md"
        );
    }
}
