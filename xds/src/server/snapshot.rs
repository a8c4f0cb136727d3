//! The configuration of one node: immutable, shared between streams and with the next snapshot.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::TypeUrl;

/// One resource, encoded once for all streams. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its version: equal versions of one name mean equal bodies.
    pub version: Arc<str>,
    /// The encoded message, without its `Any`.
    pub body: Arc<[u8]>,
}

impl Resource {
    /// A resource whose version is a hash of its body.
    #[must_use]
    pub fn new(body: impl Into<Arc<[u8]>>) -> Self {
        let body = body.into();
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Self {
            version: format!("{:016x}", hasher.finish()).into(),
            body,
        }
    }
}

/// All resources of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    items: BTreeMap<Arc<str>, Resource>,
}

impl Resources {
    /// The resource of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Resource> {
        self.items.get(name)
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Resource)> {
        self.items.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn get_key_value(&self, name: &str) -> Option<(&Arc<str>, &Resource)> {
        self.items.get_key_value(name)
    }
}

impl FromIterator<(Arc<str>, Resource)> for Resources {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Resource)>>(items: I) -> Self {
        Self {
            items: items.into_iter().collect(),
        }
    }
}

/// Everything that one node is to get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    types: BTreeMap<TypeUrl, Arc<Resources>>,
}

impl Snapshot {
    /// Starts an empty one.
    #[must_use]
    pub fn builder() -> SnapshotBuilder {
        SnapshotBuilder::default()
    }

    /// The resources of a type, if there are any.
    #[must_use]
    pub fn resources(&self, type_url: &TypeUrl) -> Option<&Arc<Resources>> {
        self.types.get(type_url)
    }

    /// All types that have resources.
    pub fn types(&self) -> impl Iterator<Item = (&TypeUrl, &Arc<Resources>)> {
        self.types.iter()
    }
}

/// Collects a [`Snapshot`].
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    types: BTreeMap<TypeUrl, Arc<Resources>>,
}

impl SnapshotBuilder {
    /// Adds or replaces one resource.
    pub fn insert(
        &mut self,
        type_url: &TypeUrl,
        name: impl Into<Arc<str>>,
        resource: Resource,
    ) -> &mut Self {
        let resources = self.types.entry(type_url.clone()).or_default();
        Arc::make_mut(resources).items.insert(name.into(), resource);
        self
    }

    /// Takes all resources of a type, shared: streams see at once that an `Arc` they know is
    /// unchanged.
    pub fn set(&mut self, type_url: &TypeUrl, resources: Arc<Resources>) -> &mut Self {
        self.types.insert(type_url.clone(), resources);
        self
    }

    /// The snapshot.
    #[must_use]
    pub fn build(self) -> Snapshot {
        Snapshot { types: self.types }
    }
}
