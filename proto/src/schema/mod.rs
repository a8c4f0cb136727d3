//! What the descriptors of Envoy's API say, as a static table, and the wire format read by it.
//!
//! The table is made by `build/table.rs` and lies in the binary's read-only data. A descriptor pool
//! of the same types would cost 10 MB of heap and as many milliseconds at start.

pub(crate) mod table;
pub(crate) mod wire;

/// The full name that a type URL ends with.
pub(crate) fn type_name(type_url: &str) -> Option<&str> {
    type_url
        .rsplit_once('/')
        .map(|(_, name)| name)
        .filter(|name| !name.is_empty())
}
