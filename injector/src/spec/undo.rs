//! Takes an injected pod's sidecar away again, by the books that the change has kept.

use serde_json::{Map, Value};

use super::{
    INIT_CONTAINER, PROXY_CONTAINER, Pod, STATUS,
    ledger::{Status, replace_key},
    pod::{CONTAINER_LISTS, container_name},
};
use crate::Problem;

/// The pod as it was before [`super::inject`]; `None` if it was not injected.
///
/// # Errors
/// When the pod is none, or has a sidecar whose books are missing or damaged.
pub fn uninject(template: &Value) -> Result<Option<Value>, Vec<Problem>> {
    let pod = Pod::read(template)?;
    let path = format!("metadata.annotations[{STATUS}]");
    let Some(books) = pod.annotation(STATUS) else {
        if pod.has_container(PROXY_CONTAINER) || pod.has_container(INIT_CONTAINER) {
            let message = "missing: what the sidecar has changed is not known any more";
            return Err(vec![Problem::new(path, message)]);
        }
        return Ok(None);
    };
    let status: Status = serde_json::from_str(books).map_err(|error| {
        vec![Problem::new(
            path,
            format!("not what inject has written: {error}"),
        )]
    })?;
    let mut whole = template.clone();
    if let Some(pod) = whole.as_object_mut() {
        restore(pod, &status);
    }
    Ok(Some(whole))
}

fn restore(pod: &mut Map<String, Value>, status: &Status) {
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        for (list, names) in [
            ("initContainers", &status.init_containers),
            ("containers", &status.containers),
            ("volumes", &status.volumes),
        ] {
            if let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| {
                    let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                    !names.iter().any(|one| one == name)
                });
            }
            vacate(spec, list, status.was.get(&format!("spec.{list}")));
        }
        for list in CONTAINER_LISTS {
            let items = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in items.into_iter().flatten().filter_map(Value::as_object_mut) {
                let former = status
                    .former_handlers
                    .get(container_name(container))
                    .and_then(Value::as_object);
                for (field, handler) in former.into_iter().flatten() {
                    restore_handler(container, field, handler);
                }
            }
        }
    }
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.shift_remove(STATUS);
            for key in &status.annotations {
                annotations.shift_remove(key);
            }
            for (key, former) in &status.former_annotations {
                if let Some(value) = annotations.get_mut(key) {
                    *value = former.clone();
                }
            }
        }
        vacate(
            metadata,
            "annotations",
            status.was.get("metadata.annotations"),
        );
    }
    vacate(pod, "metadata", status.was.get("metadata"));
}

fn restore_handler(container: &mut Map<String, Value>, field: &str, former: &Value) {
    let mut holder = Some(container);
    for part in field.split('.') {
        holder = holder
            .and_then(|holder| holder.get_mut(part))
            .and_then(Value::as_object_mut);
    }
    let former = former.as_object().and_then(|former| former.iter().next());
    if let (Some(holder), Some((handler, value))) = (holder, former) {
        replace_key(holder, "httpGet", handler, value.clone());
    }
}

/// An empty list or map that was not there before goes away.
fn vacate(of: &mut Map<String, Value>, name: &str, was: Option<&Value>) {
    let is_empty = match of.get(name) {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        _ => false,
    };
    match was.and_then(Value::as_str) {
        Some("absent") if is_empty => {
            of.shift_remove(name);
        }
        Some("null") if is_empty => {
            of.insert(name.to_owned(), Value::Null);
        }
        _ => {}
    }
}
