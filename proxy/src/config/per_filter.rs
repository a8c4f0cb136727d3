//! `typed_per_filter_config`: settings of filters at one level of a route configuration.

use std::sync::Arc;

use crate::filters;

/// The settings of one level, by the filters' names in the chain.
#[derive(Clone, Debug, Default)]
pub struct PerFilterConfigs(pub Vec<(Arc<str>, Setting)>);

/// What a level says of one filter.
#[derive(Clone, Debug)]
pub enum Setting {
    /// Skip it.
    Disabled,
    /// Pass it, with the settings of the levels above.
    Enabled,
    /// Pass it, with these settings.
    Config(filters::http::RouteConfig),
}

impl PerFilterConfigs {
    /// Whether the level says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each filter's name with what is said of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(name, setting)| (&**name, setting))
    }
}
