//! Per-route settings of filters (`typed_per_filter_config`), resolved once for each place of a route
//! table that a request can end at.

use std::{hash::BuildHasher as _, sync::Arc};

use super::{RouteBuild, RouteFilter};
use crate::config::per_filter::{PerFilterConfigs, Setting};

/// A filter's name in the chain, so that comparing names is comparing numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(u64);

impl NameId {
    pub(super) fn of(name: &str) -> Self {
        Self(foldhash::fast::FixedState::default().hash_one(name))
    }
}

/// The settings of all filters at one place: its own and those of the levels above it.
#[derive(Debug)]
pub struct Overrides(Box<[Override]>);

#[derive(Clone, Debug)]
struct Override {
    name: NameId,
    /// By the most specific level that names the filter.
    is_disabled: bool,
    /// The most general first.
    objects: Vec<Arc<RouteFilter>>,
}

impl Overrides {
    /// The settings of a level below `above`; the same ones where it has none of its own.
    #[must_use]
    pub fn below(
        above: Option<&Arc<Self>>,
        own: &PerFilterConfigs,
        build: RouteBuild<'_>,
    ) -> Option<Arc<Self>> {
        if own.is_empty() {
            return above.cloned();
        }
        let mut all = above.map_or_else(Vec::new, |above| above.0.to_vec());
        for (name, setting) in own.iter() {
            let name = NameId::of(name);
            let place = match all.iter().position(|one| one.name == name) {
                Some(place) => &mut all[place],
                None => {
                    all.push(Override {
                        name,
                        is_disabled: false,
                        objects: Vec::new(),
                    });
                    all.last_mut().expect("one was pushed")
                }
            };
            place.is_disabled = matches!(setting, Setting::Disabled);
            if let Setting::Config(config) = setting {
                place
                    .objects
                    .push(Arc::new(RouteFilter::new(config, build)));
            }
        }
        Some(Arc::new(Self(all.into())))
    }

    /// Whether a filter of this name is disabled, and its settings; none if no level names it.
    pub(super) fn of(&self, name: NameId) -> Option<(bool, &[Arc<RouteFilter>])> {
        let found = self.0.iter().find(|one| one.name == name)?;
        Some((found.is_disabled, &found.objects))
    }
}
