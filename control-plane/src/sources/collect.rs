//! One writer of the model: takes what sources found, makes the next version, hands it on.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::{Duration, Instant, SystemTime},
};

use outrigger_mesh::{
    Model, ObjectRef,
    model::Object,
    parse::{self, FileSet, Finding},
};

use super::{
    files::{Change, Files},
    first_seen::{self, FirstSeen},
    last_good::LastGood,
};
use crate::serving::Serving;

/// The clock is looked at this often, since somebody may set it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the files say, for the API: written by the collector alone.
#[derive(Debug, Default)]
pub struct Sources {
    state: RwLock<Snapshot>,
}

/// What the files said when they were last looked at.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Errors and warnings of all files.
    pub findings: Vec<Finding>,
    /// Files of which an older version is in force.
    pub stale: Vec<String>,
    /// The file that each object comes from.
    pub origins: BTreeMap<ObjectRef, String>,
}

impl Sources {
    /// The present state.
    pub fn snapshot(&self) -> Snapshot {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn set(&self, files: &FileSet) {
        let snapshot = Snapshot {
            findings: files.findings().cloned().collect(),
            stale: files
                .files()
                .iter()
                .filter(|(_, file)| file.is_stale())
                .map(|(name, _)| name.clone())
                .collect(),
            origins: files
                .origins()
                .into_iter()
                .map(|(object, file)| (object, file.to_owned()))
                .collect(),
        };
        *self
            .state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = snapshot;
    }
}

/// A version of the model and how it came about.
#[derive(Debug)]
pub struct Update {
    /// The model.
    pub model: Arc<Model>,
    /// What is new, different or gone in it.
    pub objects: Vec<ObjectRef>,
    /// When the first sign of the change came.
    pub noticed: Instant,
    /// The same by the wall clock.
    pub noticed_at: SystemTime,
}

/// Makes models of what the sources find.
#[derive(Debug)]
pub struct Collector {
    source: Files,
    last_good: LastGood,
    first_seen: FirstSeen,
    files: FileSet,
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    version: u64,
    sources: Arc<Sources>,
    serving: Arc<Serving>,
}

impl Collector {
    /// Reads everything once and hands on the first model, so that proxies are not served before.
    pub fn start(
        mut source: Files,
        last_good: LastGood,
        first_seen: FirstSeen,
        sources: Arc<Sources>,
        serving: Arc<Serving>,
    ) -> Self {
        let first = source.read_all();
        // What is broken now says what it said before a restart.
        let mut files = FileSet::default();
        let kept = first.files.iter().filter_map(|(name, _)| {
            let text = last_good.load(name)?;
            Some((name.clone(), Some(parse::parse_file(name, &text))))
        });
        files.update(kept);
        let mut collector = Self {
            source,
            last_good,
            first_seen,
            files,
            objects: BTreeMap::new(),
            version: 0,
            sources,
            serving,
        };
        collector.take(first);
        collector
    }

    /// Follows the source, and the clock where an object's time is limited, for ever.
    pub async fn run(mut self) {
        loop {
            let wait = first_seen::next_end(&self.objects).map_or(PATIENCE, |end| {
                let left = end.duration_since(SystemTime::now()).unwrap_or_default();
                left.min(PATIENCE)
            });
            match tokio::time::timeout(wait, self.source.changed()).await {
                Ok(change) => self.take(change),
                Err(_) => {
                    self.publish(&[], Instant::now(), SystemTime::now());
                    self.source.look_again();
                }
            }
        }
    }

    fn take(&mut self, change: Change) {
        let names: Vec<_> = change.files.iter().map(|(name, _)| name.clone()).collect();
        self.files.update(change.files);
        self.publish(&names, change.noticed, change.noticed_at);
        self.keep(&names);
    }

    /// Remembers what is good, for the next start. After publication: nobody waits for it.
    fn keep(&self, names: &[String]) {
        let files = self.files.files();
        for name in names {
            if files.get(name).is_some_and(|file| !file.is_stale())
                && let Some(text) = self.source.text(name)
            {
                self.last_good.save(name, text);
            }
        }
        self.last_good.retain(|name| files.contains_key(name));
    }

    fn publish(&mut self, names: &[String], noticed: Instant, noticed_at: SystemTime) {
        self.sources.set(&self.files);
        for name in names {
            for finding in self
                .files
                .files()
                .get(name)
                .map_or(&[][..], |file| file.findings())
            {
                tracing::warn!("{finding}");
            }
        }
        // An object that says the same as before is the same, so that what is made of it is too.
        let mut next: BTreeMap<ObjectRef, Arc<Object>> = BTreeMap::new();
        let mut changed = Vec::new();
        let now = SystemTime::now();
        for object in self.files.objects() {
            let object = self.first_seen.stamp(object, now);
            let reference = object.reference();
            let object = match self.objects.get(&reference) {
                Some(before) if **before == *object => Arc::clone(before),
                _ => {
                    changed.push(reference.clone());
                    object
                }
            };
            next.insert(reference, object);
        }
        changed.extend(
            self.objects
                .keys()
                .filter(|old| !next.contains_key(*old))
                .cloned(),
        );
        self.first_seen.keep(&next);
        if changed.is_empty() && self.version > 0 {
            return;
        }
        changed.sort();
        self.version += 1;
        let model = Arc::new(Model::build(self.version, next.values().cloned()));
        self.objects = next;
        tracing::info!(
            version = self.version,
            objects = changed.len(),
            "mesh changed"
        );
        self.serving.publish(Update {
            model,
            objects: changed,
            noticed,
            noticed_at,
        });
    }
}
