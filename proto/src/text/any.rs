//! The JSON form of `Any`: an object whose `@type` names the message that the rest is.

use prost::encoding;
use serde_json::{Map, Value};

use super::{
    from_value::Reader,
    hint::{nearest, show},
    leaf,
};
use crate::{
    error::Path,
    schema::{
        table::{Message, Special},
        type_name,
    },
};

/// Whether an `Any` holds this type's JSON form in `value`, not beside `@type`.
pub(super) fn has_own_form(row: &Message) -> bool {
    row.name() != "google.protobuf.Empty"
        && (row.special == Special::Any || leaf::form(row.name()).is_some())
}

impl Reader {
    /// Reads the object that stands for an `Any`; its wire bytes.
    pub(super) fn any(
        &mut self,
        entries: &Map<String, Value>,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<Vec<u8>> {
        if entries.is_empty() {
            return Some(Vec::new());
        }
        let url = match entries.get("@type") {
            Some(Value::String(url)) => url,
            Some(other) => {
                self.fail(
                    path,
                    format!("expected a type URL in `@type`, got {}", show(other)),
                );
                return None;
            }
            None => {
                self.fail(
                    path,
                    "`@type` is missing: it names the type of this configuration",
                );
                return None;
            }
        };
        let Some(row) = type_name(url).and_then(Message::named) else {
            self.unknown_type(url, path);
            return None;
        };
        let content = if has_own_form(row) {
            for name in entries
                .keys()
                .filter(|name| !["@type", "value"].contains(&name.as_str()))
            {
                let reason = "unknown field; the content of this type goes into `value`";
                self.fail(&path.field(name), reason);
            }
            let value = entries.get("value").unwrap_or(&Value::Null);
            self.message(row, value, path, depth + 1)?
        } else {
            let members = entries.iter().filter(|(name, _)| *name != "@type");
            self.object(row, members, path, depth + 1)?
        };
        let mut wire = Vec::new();
        encoding::string::encode(1, url, &mut wire);
        encoding::bytes::encode(2, &content, &mut wire);
        Some(wire)
    }

    fn unknown_type(&mut self, url: &str, path: &Path<'_>) {
        let Some(name) = type_name(url) else {
            let reason = format!(
                "`@type` must be a type URL such as \
                 `type.googleapis.com/envoy.config.listener.v3.Listener`, got {url:?}"
            );
            return self.fail(path, reason);
        };
        let near = nearest(name, Message::all().iter().map(|row| (row.name(), row)));
        let hint = near.map(|row| format!("; did you mean `type.googleapis.com/{}`?", row.name()));
        self.fail(
            path,
            format!("unknown type URL `{url}`{}", hint.unwrap_or_default()),
        );
    }
}
