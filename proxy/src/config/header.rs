//! Header additions and removals (`HeaderValueOption`, `*_headers_to_remove`).

use super::format::Format;

/// Changes of one level (route configuration, virtual host, route, weighted cluster) in one
/// direction. Envoy applies removals before additions within a level.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutations {
    /// Names to remove.
    pub remove: Vec<http::HeaderName>,
    /// Values to add, in order.
    pub add: Vec<HeaderAddition>,
}

/// One `envoy.config.core.v3.HeaderValueOption`.
#[derive(Clone, Debug)]
pub struct HeaderAddition {
    /// The header; never a pseudo-header other than `:authority`/`host` where Envoy allows it.
    pub name: http::HeaderName,
    /// The value with its command operators.
    pub value: Format,
    /// What happens with values already there.
    pub action: AppendAction,
    /// Add the header also when its value comes out empty.
    pub keep_empty: bool,
}

/// `HeaderValueOption.HeaderAppendAction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAction {
    /// Add another value (the default).
    AppendIfExistsOrAdd,
    /// Leave an existing one alone.
    AddIfAbsent,
    /// Replace, or add.
    OverwriteIfExistsOrAdd,
    /// Replace only.
    OverwriteIfExists,
}

impl HeaderMutations {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}
