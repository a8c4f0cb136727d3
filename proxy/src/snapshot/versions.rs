//! What clusters and listeners have in common: by name, the version that serves, the one that warms, and
//! what was refused last.

use std::{collections::BTreeMap, sync::Arc};

use super::resource::{Origin, Refused, Resource};

/// All resources of one kind.
#[derive(Debug)]
pub(super) struct Versions<T> {
    entries: BTreeMap<Arc<str>, Entry<T>>,
}

/// One resource.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) active: Option<(Resource, Arc<T>)>,
    pub(super) warming: Option<(Resource, Arc<T>)>,
    pub(super) refused: Option<Refused>,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self {
            active: None,
            warming: None,
            refused: None,
        }
    }
}

impl<T> Entry<T> {
    /// Both versions, the serving one first.
    pub(super) fn versions(&self) -> impl Iterator<Item = &(Resource, Arc<T>)> {
        self.active.iter().chain(&self.warming)
    }
}

impl<T> Versions<T> {
    /// Whether the latest version is this very message; it takes over the version's name then, and what
    /// was refused since is of no interest any more.
    pub(super) fn is_latest(&mut self, resource: &Resource) -> bool {
        let Some(entry) = self.entries.get_mut(&resource.name) else {
            return false;
        };
        match entry.warming.as_mut().or(entry.active.as_mut()) {
            Some((known, _)) if known.body.value == resource.body.value => {
                known.version = Arc::clone(&resource.version);
                entry.refused = None;
                true
            }
            _ => false,
        }
    }

    /// The latest version, warm or not.
    pub(super) fn latest(&self, name: &str) -> Option<&Arc<T>> {
        let entry = self.entries.get(name)?;
        let latest = entry.warming.as_ref().or(entry.active.as_ref());
        latest.map(|(_, version)| version)
    }

    /// A new version begins to warm, in place of one that never served.
    pub(super) fn warm(&mut self, resource: Resource, version: Arc<T>) {
        let entry = self.entries.entry(Arc::clone(&resource.name)).or_default();
        entry.refused = None;
        entry.warming = Some((resource, version));
    }

    pub(super) fn refuse(&mut self, name: &str, refused: Refused) {
        self.entries.entry(Arc::from(name)).or_default().refused = Some(refused);
    }

    /// Removes a dynamic resource; gives what there was.
    pub(super) fn remove(&mut self, name: &str) -> Option<Entry<T>> {
        if self.is_static(name) {
            return None;
        }
        self.entries.remove(name)
    }

    /// How many serve, and how many warm.
    pub(super) fn count(&self) -> (usize, usize) {
        let entries = || self.entries.values();
        (
            entries().filter(|entry| entry.active.is_some()).count(),
            entries().filter(|entry| entry.warming.is_some()).count(),
        )
    }

    pub(super) fn is_static(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| {
            entry
                .versions()
                .any(|(resource, _)| resource.origin == Origin::Static)
        })
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.entries
            .get(name)
            .is_some_and(|entry| entry.versions().next().is_some())
    }

    /// Whether the name is known only as one that warms.
    pub(super) fn is_warming(&self, name: &str) -> bool {
        self.entries
            .get(name)
            .is_some_and(|entry| entry.active.is_none() && entry.warming.is_some())
    }

    pub(super) fn has_warming(&self) -> bool {
        self.entries.values().any(|entry| entry.warming.is_some())
    }

    pub(super) fn find_static(&self, name: &str) -> Option<Arc<T>> {
        let (resource, version) = self.entries.get(name)?.versions().next()?;
        (resource.origin == Origin::Static).then(|| Arc::clone(version))
    }

    /// Those that serve.
    pub(super) fn serving(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.entries.iter().filter_map(|(name, entry)| {
            let (_, version) = entry.active.as_ref()?;
            Some((name, version))
        })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.values()
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry<T>> {
        self.entries.values_mut()
    }

    /// Every version, serving or warming.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.entries()
            .flat_map(Entry::versions)
            .map(|(_, version)| version)
    }
}
