//! Reduces a descriptor set to what is reachable from the roots.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_reflect::{
    DescriptorPool, EnumDescriptor, Kind, MessageDescriptor,
    prost_types::{
        DescriptorProto, FieldDescriptorProto, FieldOptions, FileDescriptorProto,
        FileDescriptorSet, MessageOptions,
    },
};

/// The messages and enums that stay, by full name.
pub(crate) struct Kept {
    pub(crate) messages: BTreeMap<String, MessageDescriptor>,
    enums: BTreeSet<String>,
}

/// Walks from the roots over the types of fields.
pub(crate) fn reachable<'a>(pool: &DescriptorPool, roots: impl Iterator<Item = &'a str>) -> Kept {
    let mut kept = Kept {
        messages: BTreeMap::new(),
        enums: BTreeSet::new(),
    };
    let (mut queue, mut unknown) = (Vec::new(), Vec::new());
    for name in roots {
        match pool.get_message_by_name(name) {
            Some(message) => queue.push(message),
            None => unknown.push(name),
        }
    }
    assert!(
        unknown.is_empty(),
        "build/extensions.rs: not in envoy-types: {unknown:#?}"
    );
    while let Some(message) = queue.pop() {
        let name = message.full_name().to_owned();
        if kept.messages.contains_key(&name) {
            continue;
        }
        // A nested type needs its parent to exist.
        queue.extend(message.parent_message());
        for field in message.fields() {
            match field.kind() {
                Kind::Message(inner) => queue.push(inner),
                Kind::Enum(inner) => keep_enum(&inner, &mut kept, &mut queue),
                _ => {}
            }
        }
        kept.messages.insert(name, message);
    }
    kept
}

fn keep_enum(descriptor: &EnumDescriptor, kept: &mut Kept, queue: &mut Vec<MessageDescriptor>) {
    kept.enums.insert(descriptor.full_name().to_owned());
    queue.extend(descriptor.parent_message());
}

/// The encoded descriptor set with only the kept types, without services and options.
pub(crate) fn prune(pool: &DescriptorPool, kept: &Kept) -> Vec<u8> {
    let mut files = Vec::new();
    for file in pool.file_descriptor_protos() {
        let package = file.package();
        let mut needed = BTreeSet::new();
        let message_type: Vec<_> = file
            .message_type
            .iter()
            .filter_map(|message| prune_message(pool, message, package, kept, &mut needed))
            .collect();
        let enum_type: Vec<_> = file
            .enum_type
            .iter()
            .filter(|item| kept.enums.contains(&join(package, item.name())))
            .cloned()
            .map(bare_enum)
            .collect();
        if message_type.is_empty() && enum_type.is_empty() {
            continue;
        }
        needed.remove(file.name());
        files.push(FileDescriptorProto {
            name: file.name.clone(),
            package: file.package.clone(),
            dependency: needed.into_iter().collect(),
            message_type,
            enum_type,
            syntax: file.syntax.clone(),
            ..FileDescriptorProto::default()
        });
    }
    FileDescriptorSet { file: files }.encode_to_vec()
}

fn prune_message(
    pool: &DescriptorPool,
    message: &DescriptorProto,
    scope: &str,
    kept: &Kept,
    needed: &mut BTreeSet<String>,
) -> Option<DescriptorProto> {
    let full_name = join(scope, message.name());
    if !kept.messages.contains_key(&full_name) {
        return None;
    }
    let field = message.field.iter().map(|field| {
        needed.extend(defining_file(pool, field));
        FieldDescriptorProto {
            options: field.options.as_ref().and_then(|options| {
                options.packed.map(|packed| FieldOptions {
                    packed: Some(packed),
                    ..FieldOptions::default()
                })
            }),
            // The default name is derived from the field's.
            json_name: None,
            ..field.clone()
        }
    });
    Some(DescriptorProto {
        name: message.name.clone(),
        field: field.collect(),
        nested_type: message
            .nested_type
            .iter()
            .filter_map(|nested| prune_message(pool, nested, &full_name, kept, needed))
            .collect(),
        enum_type: message
            .enum_type
            .iter()
            .filter(|item| kept.enums.contains(&join(&full_name, item.name())))
            .cloned()
            .map(bare_enum)
            .collect(),
        oneof_decl: message
            .oneof_decl
            .iter()
            .cloned()
            .map(|mut oneof| {
                oneof.options = None;
                oneof
            })
            .collect(),
        // A map's entries are marked by an option.
        options: message.options.as_ref().and_then(|options| {
            options.map_entry.map(|map_entry| MessageOptions {
                map_entry: Some(map_entry),
                ..MessageOptions::default()
            })
        }),
        ..DescriptorProto::default()
    })
}

/// The file that defines a field's type.
fn defining_file(pool: &DescriptorPool, field: &FieldDescriptorProto) -> Option<String> {
    let name = field.type_name.as_deref()?.trim_start_matches('.');
    let file = match pool.get_message_by_name(name) {
        Some(message) => message.parent_file(),
        None => pool.get_enum_by_name(name)?.parent_file(),
    };
    Some(file.name().to_owned())
}

fn bare_enum(
    mut item: prost_reflect::prost_types::EnumDescriptorProto,
) -> prost_reflect::prost_types::EnumDescriptorProto {
    item.options = None;
    item.reserved_name.clear();
    item.reserved_range.clear();
    for value in &mut item.value {
        value.options = None;
    }
    item
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}
