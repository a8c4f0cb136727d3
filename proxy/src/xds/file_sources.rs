//! The files that resources are wanted from: what each was last found to hold, and what of it is news.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::files::{self, FileWatch};
use crate::{
    config::source::{PathSource, SourceKind},
    snapshot::{Resource, SourceKey, state::Kind},
};

/// How soon a file that could not be read or watched is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// News from one file about one kind of resources.
#[derive(Debug)]
pub(super) struct FileUpdate {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) added: Vec<Resource>,
    pub(super) removed: Vec<Arc<str>>,
}

/// All files that are watched.
#[derive(Debug)]
pub(super) struct Files {
    entries: BTreeMap<PathBuf, File>,
    sender: mpsc::UnboundedSender<PathBuf>,
    receiver: mpsc::UnboundedReceiver<PathBuf>,
}

#[derive(Debug)]
struct File {
    source: PathSource,
    wanted: BTreeMap<Kind, Wanted>,
    watch: Option<FileWatch>,
    bytes: Option<Vec<u8>>,
    /// What the last good content held.
    resources: Option<Vec<(Kind, Resource)>>,
    complaint: Option<String>,
    is_retrying: bool,
}

#[derive(Debug, Default)]
struct Wanted {
    /// None: every resource of the kind.
    names: Option<BTreeSet<Arc<str>>>,
    seen: BTreeSet<Arc<str>>,
}

impl Files {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            entries: BTreeMap::new(),
            sender,
            receiver,
        }
    }

    /// Wants every resource of a kind (CDS, LDS) from a file.
    pub(super) fn want_all(&mut self, kind: Kind, source: &PathSource) -> Option<FileUpdate> {
        let file = self.file(source);
        file.wanted.insert(kind, Wanted::default());
        file.news(kind)
    }

    /// Wants just these of a kind (EDS, RDS) from files; tells what is there already, and which names
    /// are wanted for the first time.
    pub(super) fn want(
        &mut self,
        kind: Kind,
        wanted: &BTreeSet<(SourceKey, Arc<str>)>,
    ) -> (Vec<FileUpdate>, Vec<Arc<str>>) {
        let mut by_path = BTreeMap::<&Path, (&PathSource, BTreeSet<Arc<str>>)>::new();
        for (source, name) in wanted {
            if let SourceKind::Path(source) = &source.0 {
                let entry = by_path.entry(&source.path);
                let (_, names) = entry.or_insert_with(|| (source, BTreeSet::new()));
                names.insert(Arc::clone(name));
            }
        }
        self.entries.retain(|path, file| {
            if !by_path.contains_key(path.as_path()) {
                file.wanted.remove(&kind);
            }
            !file.wanted.is_empty()
        });
        let mut updates = Vec::new();
        let mut new = Vec::new();
        for (source, names) in by_path.into_values() {
            let file = self.file(source);
            let known = file.wanted.entry(kind).or_default();
            let before = known.names.get_or_insert_default();
            if *before == names {
                continue;
            }
            new.extend(names.difference(before).cloned());
            *before = names;
            updates.extend(file.news(kind));
        }
        (updates, new)
    }

    /// Waits until a file may have changed; tells what it says now that it did not say before.
    pub(super) async fn changed(&mut self) -> Vec<FileUpdate> {
        let mut paths = BTreeSet::new();
        // Replacing one file is several events, which one reading answers.
        paths.extend(self.receiver.recv().await);
        while let Ok(path) = self.receiver.try_recv() {
            paths.insert(path);
        }
        let mut updates = Vec::new();
        for path in paths {
            let Some(file) = self.entries.get_mut(&path) else {
                continue;
            };
            file.is_retrying = false;
            if file.read(&self.sender) {
                let kinds = file.wanted.keys().copied().collect::<Vec<_>>();
                updates.extend(kinds.into_iter().filter_map(|kind| file.news(kind)));
            }
        }
        updates
    }

    fn file(&mut self, source: &PathSource) -> &mut File {
        let sender = &self.sender;
        self.entries.entry(source.path.clone()).or_insert_with(|| {
            let mut file = File {
                source: source.clone(),
                wanted: BTreeMap::new(),
                watch: None,
                bytes: None,
                resources: None,
                complaint: None,
                is_retrying: false,
            };
            file.read(sender);
            file
        })
    }
}

impl File {
    /// Reads the file anew; tells whether its good content changed. A broken one changes nothing.
    fn read(&mut self, sender: &mpsc::UnboundedSender<PathBuf>) -> bool {
        match self.try_read(sender) {
            Ok(changed) => {
                self.complaint = None;
                changed
            }
            Err(reason) => {
                if self.complaint.as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                    self.complaint = Some(reason);
                }
                false
            }
        }
    }

    fn try_read(&mut self, sender: &mpsc::UnboundedSender<PathBuf>) -> Result<bool, String> {
        // Watched before it is read, so that no change falls between.
        if self.watch.is_none() {
            match FileWatch::new(&self.source, sender.clone()) {
                Ok(watch) => self.watch = Some(watch),
                Err(reason) => {
                    self.retry(sender);
                    return Err(reason);
                }
            }
        }
        let path = &self.source.path;
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = format!("{}: {error}", path.display());
                // The directory itself may be another one when the file comes back.
                self.watch = None;
                self.retry(sender);
                return Err(reason);
            }
        };
        if self.bytes.as_ref() == Some(&bytes) {
            return match &self.complaint {
                Some(complaint) => Err(complaint.clone()),
                None => Ok(false),
            };
        }
        let parsed = files::parse(path, &bytes);
        self.bytes = Some(bytes);
        self.resources = Some(parsed?);
        Ok(true)
    }

    fn retry(&mut self, sender: &mpsc::UnboundedSender<PathBuf>) {
        if std::mem::replace(&mut self.is_retrying, true) {
            return;
        }
        let sender = sender.clone();
        let path = self.source.path.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETRY).await;
            drop(sender.send(path));
        });
    }

    /// What the file says of a kind; none before it could be read.
    fn news(&mut self, kind: Kind) -> Option<FileUpdate> {
        let resources = self.resources.as_ref()?;
        let wanted = self.wanted.get_mut(&kind)?;
        let added = resources
            .iter()
            .filter(|(of, one)| {
                *of == kind
                    && wanted
                        .names
                        .as_ref()
                        .is_none_or(|names| names.contains(&one.name))
            })
            .map(|(_, one)| one.clone())
            .collect::<Vec<_>>();
        let names = added
            .iter()
            .map(|one| Arc::clone(&one.name))
            .collect::<BTreeSet<_>>();
        let before = std::mem::replace(&mut wanted.seen, names);
        // EDS and RDS resources end with who wants them.
        let removed = match wanted.names {
            None => before.difference(&wanted.seen).cloned().collect(),
            Some(_) => Vec::new(),
        };
        Some(FileUpdate {
            path: self.source.path.clone(),
            kind,
            added,
            removed,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

    use super::{FileUpdate, Files};
    use crate::{
        config::source::{PathSource, SourceKind},
        snapshot::{SourceKey, state::Kind},
    };

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("outrigger-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn source(path: PathBuf) -> PathSource {
        PathSource {
            path,
            watched_directory: None,
        }
    }

    fn response(type_url: &str, names: &[&str]) -> String {
        let resources = names
            .iter()
            .map(|name| format!("{{\"@type\": {type_url}, name: {name}}}"))
            .collect::<Vec<_>>();
        format!("resources: [{}]", resources.join(", "))
    }

    fn names(update: &FileUpdate) -> Vec<&str> {
        update.added.iter().map(|one| &*one.name).collect()
    }

    /// The next update that says something else than `before`.
    async fn next(files: &mut Files) -> FileUpdate {
        let wait = async {
            loop {
                if let Some(update) = files.changed().await.pop() {
                    return update;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the change is seen")
    }

    #[tokio::test]
    async fn file_replaced_by_rename_is_read_anew() {
        let folder = folder("rename");
        let path = folder.join("cds.yaml");
        std::fs::write(&path, response(CLUSTER, &["a", "b"])).unwrap();
        let mut files = Files::new();
        let first = files
            .want_all(Kind::Cluster, &source(path.clone()))
            .unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        let next_path = folder.join("next");
        std::fs::write(&next_path, response(CLUSTER, &["b", "c"])).unwrap();
        std::fs::rename(&next_path, &path).unwrap();
        let update = next(&mut files).await;
        assert_eq!(names(&update), ["b", "c"]);
        assert_eq!(update.removed, [Arc::from("a")]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn directory_behind_a_link_is_replaced_as_kubernetes_does() {
        let folder = folder("link");
        for (version, cluster) in [("..1", "a"), ("..2", "b")] {
            std::fs::create_dir(folder.join(version)).unwrap();
            let path = folder.join(version).join("cds.yaml");
            std::fs::write(path, response(CLUSTER, &[cluster])).unwrap();
        }
        let link = |from: &str, to: &str| {
            std::os::unix::fs::symlink(from, folder.join(to)).unwrap();
        };
        link("..1", "..data");
        link("..data/cds.yaml", "cds.yaml");
        let mut files = Files::new();
        let first = files.want_all(Kind::Cluster, &source(folder.join("cds.yaml")));
        assert_eq!(names(&first.unwrap()), ["a"]);
        link("..2", "..data_tmp");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        assert_eq!(names(&next(&mut files).await), ["b"]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn file_and_directory_may_come_later() {
        let folder = folder("later");
        let path = folder.join("inner").join("cds.yaml");
        let mut files = Files::new();
        assert!(
            files
                .want_all(Kind::Cluster, &source(path.clone()))
                .is_none()
        );
        std::fs::create_dir(folder.join("inner")).unwrap();
        std::fs::write(&path, response(CLUSTER, &["a"])).unwrap();
        assert_eq!(names(&next(&mut files).await), ["a"]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn broken_content_keeps_what_was_good() {
        let folder = folder("broken");
        let path = folder.join("cds.yaml");
        std::fs::write(&path, response(CLUSTER, &["a"])).unwrap();
        let mut files = Files::new();
        files
            .want_all(Kind::Cluster, &source(path.clone()))
            .unwrap();
        for broken in ["", "resources: [", "{nonsense: 1}"] {
            std::fs::write(&path, broken).unwrap();
            let file = files.entries.get_mut(&path).unwrap();
            assert!(!file.read(&files.sender), "{broken:?}");
            assert!(file.complaint.is_some(), "{broken:?}");
            assert_eq!(file.resources.as_ref().unwrap().len(), 1);
        }
        std::fs::write(&path, response(CLUSTER, &["b"])).unwrap();
        let update = next(&mut files).await;
        assert_eq!((names(&update), update.removed.len()), (vec!["b"], 1));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn only_wanted_names_are_taken_from_a_file() {
        let folder = folder("names");
        let path = folder.join("rds.yaml");
        std::fs::write(&path, response(ROUTES, &["r", "s", "t"])).unwrap();
        let key = || SourceKey(SourceKind::Path(source(path.clone())));
        let mut files = Files::new();
        let one = BTreeSet::from([(key(), Arc::from("r"))]);
        let (updates, new) = files.want(Kind::Route, &one);
        assert_eq!(names(&updates[0]), ["r"]);
        assert_eq!(new, [Arc::from("r")]);
        let (updates, new) = files.want(Kind::Route, &one);
        assert!(updates.is_empty() && new.is_empty());
        let two = BTreeSet::from([(key(), Arc::from("r")), (key(), Arc::from("t"))]);
        let (updates, new) = files.want(Kind::Route, &two);
        assert_eq!(names(&updates[0]), ["r", "t"]);
        assert_eq!(new, [Arc::from("t")]);
        files.want(Kind::Route, &BTreeSet::new());
        assert!(files.entries.is_empty(), "nobody wants the file any more");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
