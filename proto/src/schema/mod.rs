//! What the descriptors of Envoy's API say, as a static table, and the wire format read by it.
//!
//! The table is made by `build/table.rs` and lies in the binary's read-only data. A descriptor pool
//! of the same types would cost 10 MB of heap and as many milliseconds at start.

pub(crate) mod table;
pub(crate) mod wire;

/// What the schema says of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// In `snake_case`.
    pub name: &'static str,
    /// The full name of its message, if it holds messages; of a map, that of its values.
    pub message: Option<&'static str>,
    /// Of several of which one can be set, the name that they have together.
    pub oneof: Option<&'static str>,
    /// Whether it is a map.
    pub is_map: bool,
}

/// The fields of a message by its full name, sorted by number; none if the message is unknown.
#[must_use]
pub fn fields(message: &str) -> Option<Vec<FieldInfo>> {
    let row = table::Message::named(message)?;
    let info = |field: &table::Field| {
        let is_map = field.shape == table::Shape::Map;
        let inner = field.kind.message();
        let inner = match inner {
            // A map's kind is its entry, whose second field is the value.
            Some(entry) if is_map => entry
                .fields()
                .iter()
                .find(|field| field.number == 2)
                .and_then(|value| value.kind.message()),
            inner => inner,
        };
        FieldInfo {
            name: field.name(),
            message: inner.map(table::Message::name),
            oneof: field
                .oneof()
                .and_then(|index| row.oneofs().get(index))
                .map(table::Oneof::name),
            is_map,
        }
    };
    Some(row.fields().iter().map(info).collect())
}

/// The full name that a type URL ends with.
pub(crate) fn type_name(type_url: &str) -> Option<&str> {
    type_url
        .rsplit_once('/')
        .map(|(_, name)| name)
        .filter(|name| !name.is_empty())
}
