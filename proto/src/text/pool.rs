//! The pruned descriptor set, parsed when text is first read or written.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pool.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(BYTES).expect("build/main.rs wrote a consistent descriptor set")
});

/// The descriptor of a message by its full name.
pub(super) fn message(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// The full names of all messages.
pub(super) fn names() -> impl Iterator<Item = String> {
    POOL.all_messages()
        .filter(|message| !message.is_map_entry())
        .map(|message| message.full_name().to_owned())
}
