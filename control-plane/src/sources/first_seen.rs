//! When each `FaultPolicy` was first seen, kept under the data directory: a restart does not prolong
//! a fault. An object that goes and comes again is a new one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use outrigger_mesh::{
    ObjectRef,
    model::{
        Object,
        policy::{FaultSpec, Life, Policy, Timestamp},
    },
};

/// The stamps, by object.
#[derive(Debug)]
pub struct FirstSeen {
    file: PathBuf,
    stamps: BTreeMap<String, Timestamp>,
    is_saved: bool,
}

impl FirstSeen {
    /// Reads the stamps of an earlier run from `file`, if there is one.
    pub fn open(file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        let stamps = match read(&file) {
            Ok(stamps) => stamps,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(%error, "cannot read {}: faults begin anew", file.display());
                BTreeMap::new()
            }
        };
        Self {
            file,
            stamps,
            is_saved: true,
        }
    }

    /// `object` as of `now`: a fault knows whether its time is over, and nothing else changes.
    pub(super) fn stamp(&mut self, object: &Arc<Object>, now: SystemTime) -> Arc<Object> {
        let Object::FaultPolicy(policy) = &**object else {
            return Arc::clone(object);
        };
        let Ok(now) = Timestamp::try_from(now) else {
            return Arc::clone(object);
        };
        let life = self.life(policy, now);
        let spec = FaultSpec {
            life,
            ..policy.spec.clone()
        };
        Arc::new(Object::FaultPolicy(Policy {
            spec,
            ..policy.clone()
        }))
    }

    fn life(&mut self, policy: &Policy<FaultSpec>, now: Timestamp) -> Life {
        let first = match self.stamps.get(&policy.reference().to_string()) {
            Some(first) => *first,
            None => {
                self.stamps.insert(policy.reference().to_string(), now);
                self.is_saved = false;
                now
            }
        };
        // A time to live that no calendar holds is checked when the file is read.
        let end = first
            .checked_add(policy.spec.ttl.0)
            .unwrap_or(Timestamp::MAX);
        if end <= now {
            Life::Expired(end)
        } else {
            Life::Until(end)
        }
    }

    /// Forgets all other objects, and writes what is new. A failure costs no more than the memory.
    pub(super) fn keep(&mut self, objects: &BTreeMap<ObjectRef, Arc<Object>>) {
        let before = self.stamps.len();
        let there: std::collections::BTreeSet<String> = objects
            .values()
            .filter(|object| matches!(&***object, Object::FaultPolicy(_)))
            .map(|object| object.reference().to_string())
            .collect();
        self.stamps.retain(|object, _| there.contains(object));
        if self.is_saved && self.stamps.len() == before {
            return;
        }
        match write(&self.file, &self.stamps) {
            Ok(()) => self.is_saved = true,
            Err(error) => tracing::warn!(%error, "cannot write {}", self.file.display()),
        }
    }
}

/// When the next fault ends.
pub(super) fn next_end(objects: &BTreeMap<ObjectRef, Arc<Object>>) -> Option<SystemTime> {
    let ends = objects.values().filter_map(|object| match &**object {
        Object::FaultPolicy(policy) => match policy.spec.life {
            Life::Until(end) => Some(end),
            Life::Unstamped | Life::Expired(_) => None,
        },
        _ => None,
    });
    ends.min().map(SystemTime::from)
}

fn read(file: &Path) -> io::Result<BTreeMap<String, Timestamp>> {
    let text = fs::read_to_string(file)?;
    let stamps: BTreeMap<String, String> = serde_json::from_str(&text)?;
    stamps
        .into_iter()
        .map(|(object, stamp)| match stamp.parse() {
            Ok(stamp) => Ok((object, stamp)),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        })
        .collect()
}

fn write(file: &Path, stamps: &BTreeMap<String, Timestamp>) -> io::Result<()> {
    let text: BTreeMap<&str, String> = stamps
        .iter()
        .map(|(object, stamp)| (object.as_str(), stamp.to_string()))
        .collect();
    outrigger_base::file::replace(file, serde_json::to_vec_pretty(&text)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_mesh::parse;

    use super::*;

    fn fault(ttl: &str) -> Arc<Object> {
        let text = format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: FaultPolicy\nmetadata: {{name: slow}}\nspec:\n  \
             targetRefs: [{{group: '', kind: Service, name: web}}]\n  ttl: {ttl}\n  \
             delay: {{duration: 1s, percent: 50}}\n"
        );
        let parsed = parse::parse_file("m.yaml", &text);
        assert!(parsed.is_valid(), "{:?}", parsed.findings);
        Arc::clone(&parsed.objects[0].object)
    }

    fn life(object: &Object) -> Life {
        match object {
            Object::FaultPolicy(policy) => policy.spec.life,
            _ => unreachable!("a fault"),
        }
    }

    #[test]
    fn a_restart_does_not_prolong_a_fault_and_a_new_object_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("first-seen.json");
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let objects = |object: &Arc<Object>| BTreeMap::from([(object.reference(), object.clone())]);
        let end = |seconds| Timestamp::try_from(at(seconds)).unwrap();

        let mut seen = FirstSeen::open(&file);
        let object = seen.stamp(&fault("10m"), at(0));
        assert_eq!(life(&object), Life::Until(end(600)));
        assert_eq!(next_end(&objects(&object)), Some(at(600)));
        seen.keep(&objects(&object));

        let mut seen = FirstSeen::open(&file);
        let object = seen.stamp(&fault("10m"), at(599));
        assert_eq!(life(&object), Life::Until(end(600)));
        let object = seen.stamp(&object, at(600));
        assert_eq!(life(&object), Life::Expired(end(600)));
        assert_eq!(next_end(&objects(&object)), None);
        // A longer life is counted from the same beginning.
        let object = seen.stamp(&fault("20m"), at(601));
        assert_eq!(life(&object), Life::Until(end(1200)));

        seen.keep(&BTreeMap::new());
        let mut seen = FirstSeen::open(&file);
        let object = seen.stamp(&fault("10m"), at(700));
        assert_eq!(life(&object), Life::Until(end(1300)));
    }
}
