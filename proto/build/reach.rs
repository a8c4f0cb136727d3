//! Finds the types that are reachable from the roots.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, Kind, MessageDescriptor};

/// The messages and enums that stay, by full name.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) messages: BTreeMap<String, MessageDescriptor>,
    pub(crate) enums: BTreeMap<String, EnumDescriptor>,
}

/// Walks from the roots over the types of fields.
pub(crate) fn reachable<'a>(pool: &DescriptorPool, roots: impl Iterator<Item = &'a str>) -> Kept {
    let mut kept = Kept::default();
    let (mut queue, mut unknown) = (Vec::new(), Vec::new());
    for name in roots {
        match pool.get_message_by_name(name) {
            Some(message) => queue.push(message),
            None => unknown.push(name),
        }
    }
    assert!(
        unknown.is_empty(),
        "build/extensions.rs: neither in envoy-types nor in proto/: {unknown:#?}"
    );
    while let Some(message) = queue.pop() {
        let name = message.full_name().to_owned();
        if kept.messages.contains_key(&name) {
            continue;
        }
        for field in message.fields() {
            match field.kind() {
                Kind::Message(inner) => queue.push(inner),
                Kind::Enum(inner) => {
                    kept.enums.insert(inner.full_name().to_owned(), inner);
                }
                _ => {}
            }
        }
        kept.messages.insert(name, message);
    }
    kept
}
