//! Header additions and removals.

use outrigger_proto::{
    envoy::config::core::v3::{
        HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
    },
    google::protobuf::BoolValue,
};

use crate::{
    config::{
        format::Format,
        header::{AppendAction, HeaderAddition, HeaderMutations},
    },
    convert::Cx,
};

/// The changes of one level in one direction; `direction` is `request` or `response`.
pub(crate) fn mutations(
    cx: &Cx<'_>,
    direction: &str,
    add: Vec<HeaderValueOption>,
    remove: Vec<String>,
) -> HeaderMutations {
    let add_field = format!("{direction}_headers_to_add");
    let remove_field = format!("{direction}_headers_to_remove");
    let add_cx = cx.field(&add_field);
    let remove_cx = cx.field(&remove_field);
    HeaderMutations {
        add: add
            .into_iter()
            .enumerate()
            .filter_map(|(index, option)| addition(&add_cx.index(index), option))
            .collect(),
        remove: remove
            .iter()
            .enumerate()
            .filter_map(|(index, name)| removable(&remove_cx.index(index), name))
            .collect(),
    }
}

/// `:`-headers and `host` can't be removed: Envoy refuses that configuration too.
pub(crate) fn removable(cx: &Cx<'_>, name: &str) -> Option<http::HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        cx.error(":-prefixed or host headers may not be removed");
        return None;
    }
    cx.header_name(name)
}

/// One addition.
pub(crate) fn addition(cx: &Cx<'_>, option: HeaderValueOption) -> Option<HeaderAddition> {
    cx.converts::<HeaderValueOption>();
    #[expect(deprecated, reason = "Envoy still accepts `append`")]
    let HeaderValueOption {
        header,
        append,
        append_action,
        keep_empty_value,
    } = option;
    let action = match (append, append_action) {
        (Some(_), action) if action != 0 => {
            cx.field("append")
                .error("append and append_action must not both be set");
            return None;
        }
        (Some(BoolValue { value: true }), _) => AppendAction::AppendIfExistsOrAdd,
        (Some(BoolValue { value: false }), _) => AppendAction::OverwriteIfExistsOrAdd,
        (None, action) => match cx.enumeration("append_action", action)? {
            HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
            HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
            HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
        },
    };
    let header = cx.required("header", header)?;
    let cx = cx.field("header");
    cx.converts::<HeaderValue>();
    let HeaderValue {
        key,
        value,
        raw_value,
    } = header;
    if !raw_value.is_empty() {
        cx.field("raw_value").error("not supported; use value");
        return None;
    }
    if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
        cx.field("key")
            .error(":-prefixed or host headers may not be modified");
        return None;
    }
    let name = cx.field("key").header_name(&key);
    let value = match Format::parse(&value) {
        Ok(format) => Some(format),
        Err(reason) => {
            cx.field("value").error(reason);
            None
        }
    };
    Some(HeaderAddition {
        name: name?,
        value: value?,
        action,
        keep_empty: keep_empty_value,
    })
}
