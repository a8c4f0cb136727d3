//! All bulkheads of a process, by name: what a changed configuration builds anew finds the places in
//! use of the one before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{
    config::Config,
    shared::{Bulkhead, Report},
};
use crate::telemetry::stats::Registry;

/// Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Bulkheads(Arc<Mutex<HashMap<Arc<str>, Weak<Bulkhead>>>>);

impl Bulkheads {
    /// The bulkhead of this name, with these limits from now on; made if it is not there.
    #[must_use]
    pub fn get(&self, config: &Config, registry: &Registry) -> Arc<Bulkhead> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all
            .get(&config.name)
            .and_then(Weak::upgrade)
            .filter(|known| known.max_tracked_callers() == config.limits.max_tracked_callers);
        if let Some(known) = known {
            known.update(config.limits.clone());
            return known;
        }
        all.retain(|_, bulkhead| bulkhead.strong_count() > 0);
        let new = Bulkhead::new(&config.name, config.limits.clone(), registry);
        all.insert(Arc::clone(&config.name), Arc::downgrade(&new));
        new
    }

    /// What can be seen of each, in the order of their names, with so many callers.
    #[must_use]
    pub fn report(&self, callers: usize) -> Vec<Report> {
        let all: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().filter_map(Weak::upgrade).collect()
        };
        let mut reports: Vec<_> = all.iter().map(|one| one.report(callers)).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }
}
