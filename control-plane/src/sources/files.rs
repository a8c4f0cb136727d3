//! A directory of YAML files, watched.
//!
//! The kernel's notifications say *when* to look; what changed is found by looking at every file's
//! metadata, so a lost notification costs at most `RESCAN`. Changes that come together are taken
//! together: looking waits until the directory has been quiet for `QUIET`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use notify::{RecursiveMode, Watcher};
use outrigger_mesh::parse::{self, Finding, ParsedFile, Severity};
use tokio::sync::Notify;

/// How long nothing may happen before the directory is looked at. Also gives writers that are not
/// atomic the time to write the second half.
const QUIET: Duration = Duration::from_millis(20);
/// Looked at after this long even if it is never quiet.
const PATIENCE: Duration = Duration::from_millis(200);
/// Looked at this often without any notification.
const RESCAN: Duration = Duration::from_secs(5);
/// A file that turned blank is probably being written: it is believed only after this.
const BLANK: Duration = Duration::from_millis(300);
/// Larger files are refused.
const MAX_FILE: u64 = 16 << 20;

/// Something that changed: files by their path within the directory; `None` for one that is gone.
#[derive(Debug)]
pub struct Change {
    /// What each file says now.
    pub files: Vec<(String, Option<ParsedFile>)>,
    /// When the first sign of the change came.
    pub noticed: Instant,
    /// The same by the wall clock.
    pub noticed_at: SystemTime,
}

/// The directory and what of it is known.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    known: BTreeMap<String, Known>,
    events: Arc<Events>,
    /// Kept for as long as events are wanted.
    _watcher: Option<notify::RecommendedWatcher>,
    recheck: bool,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    blank_since: Option<Instant>,
    text: Text,
}

/// What was last handed on.
#[derive(Debug, PartialEq)]
enum Text {
    Nothing,
    Read(String),
    Failed(String),
}

/// Metadata that changes with the content.
#[derive(Debug, PartialEq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// Filled in by the watcher's thread.
#[derive(Debug, Default)]
struct Events {
    arrived: Notify,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    first: Option<(Instant, SystemTime)>,
    last: Option<Instant>,
    paths: BTreeSet<PathBuf>,
}

impl Files {
    /// Starts watching `root`.
    ///
    /// # Errors
    /// When it is not a directory that can be read.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root: PathBuf = root.into();
        fs::read_dir(&root)?;
        // Notifications name the real path.
        let root = root.canonicalize()?;
        let events = Arc::new(Events::default());
        let watcher = match watch(&root, &events) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "no notifications of file changes: looking every {RESCAN:?}");
                None
            }
        };
        Ok(Self {
            root,
            known: BTreeMap::new(),
            events,
            _watcher: watcher,
            recheck: false,
        })
    }

    /// Everything that the directory holds, for the start.
    pub fn read_all(&mut self) -> Change {
        let (noticed, noticed_at) = (Instant::now(), SystemTime::now());
        Change {
            files: self.scan(&BTreeSet::new()),
            noticed,
            noticed_at,
        }
    }

    /// What a file said when it was last read.
    pub fn text(&self, name: &str) -> Option<&str> {
        match &self.known.get(name)?.text {
            Text::Read(text) => Some(text),
            Text::Nothing | Text::Failed(_) => None,
        }
    }

    /// Makes the next wait look first: one that was given up may have been told of a change.
    pub fn look_again(&self) {
        self.events.arrived.notify_one();
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) -> Change {
        loop {
            let wait = if self.recheck { BLANK } else { RESCAN };
            let woken = tokio::time::timeout(wait, self.events.arrived.notified())
                .await
                .is_ok();
            if woken {
                self.quiet().await;
            }
            let pending = std::mem::take(&mut *self.events.lock());
            let (noticed, noticed_at) = pending
                .first
                .unwrap_or_else(|| (Instant::now(), SystemTime::now()));
            let files = self.scan(&pending.paths);
            if !files.is_empty() {
                return Change {
                    files,
                    noticed,
                    noticed_at,
                };
            }
        }
    }

    /// Waits until nothing happens any more.
    async fn quiet(&self) {
        let start = Instant::now();
        loop {
            let last = self.events.lock().last.unwrap_or(start);
            let due = (last + QUIET).min(start + PATIENCE);
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// Looks at every file. Those in `touched` are read even if their metadata is the same.
    fn scan(&mut self, touched: &BTreeSet<PathBuf>) -> Vec<(String, Option<ParsedFile>)> {
        self.recheck = false;
        let found = match list(&self.root) {
            Ok(found) => found,
            Err(error) => {
                // What is in force stays: an unmounted directory is no empty mesh.
                tracing::warn!(%error, "cannot read {}", self.root.display());
                return Vec::new();
            }
        };
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|name| !found.contains_key(*name))
            .cloned()
            .collect();
        let mut changes = Vec::new();
        for name in gone {
            self.known.remove(&name);
            changes.push((name, None));
        }
        for (name, path) in found {
            if let Some(parsed) = self.look(&name, &path, touched.contains(&path)) {
                changes.push((name, Some(parsed)));
            }
        }
        changes
    }

    fn look(&mut self, name: &str, path: &Path, touched: bool) -> Option<ParsedFile> {
        let stamp = fs::metadata(path).map(|metadata| Stamp::of(&metadata));
        let known = self.known.get(name);
        if let (Some(known), Ok(stamp)) = (known, &stamp)
            && known.stamp == *stamp
            && known.blank_since.is_none()
            && !touched
        {
            return None;
        }
        let text = match stamp
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|s| read(path, s))
        {
            Ok(text) => Text::Read(text),
            Err(reason) => Text::Failed(reason),
        };
        let stamp = stamp.unwrap_or(Stamp {
            modified: None,
            length: 0,
            inode: 0,
        });
        let before = known.map_or(&Text::Nothing, |known| &known.text);
        let blank = matches!(&text, Text::Read(text) if text.trim().is_empty());
        let was_blank = match before {
            Text::Read(text) => text.trim().is_empty(),
            Text::Nothing | Text::Failed(_) => true,
        };
        if blank && !was_blank {
            let now = Instant::now();
            let since = known.and_then(|known| known.blank_since).unwrap_or(now);
            if now.duration_since(since) < BLANK {
                self.recheck = true;
                if let Some(known) = self.known.get_mut(name) {
                    known.blank_since = Some(since);
                    known.stamp = stamp;
                }
                return None;
            }
        }
        let changed = *before != text;
        let parsed = changed.then(|| match &text {
            Text::Read(text) => parse::parse_file(name, text),
            Text::Failed(reason) => unreadable(name, reason),
            Text::Nothing => ParsedFile::default(),
        });
        self.known.insert(
            name.to_owned(),
            Known {
                stamp,
                blank_since: None,
                text,
            },
        );
        parsed
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

impl Events {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn watch(root: &Path, events: &Arc<Events>) -> notify::Result<notify::RecommendedWatcher> {
    let events = Arc::clone(events);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let paths = match event {
            // Our own reading makes these.
            Ok(event) if is_read(event.kind) => return,
            Ok(event) => event.paths,
            // Such as an overflow of the queue: look at everything.
            Err(_) => Vec::new(),
        };
        let now = Instant::now();
        let mut pending = events.lock();
        pending
            .first
            .get_or_insert_with(|| (now, SystemTime::now()));
        pending.last = Some(now);
        pending.paths.extend(paths);
        drop(pending);
        events.arrived.notify_one();
    })?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn is_read(kind: notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Every file that counts, by its path within `root`.
pub fn list(root: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // A folder may go while we look; the root may not.
            Err(error) if folder == root => return Err(error),
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // Hidden: editors' temporary files, version control, Kubernetes' `..data`.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e))
            {
                let name = path
                    .strip_prefix(root)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .into_owned();
                found.insert(name, path);
            }
        }
    }
    Ok(found)
}

fn read(path: &Path, stamp: &Stamp) -> Result<String, String> {
    if stamp.length > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())
}

/// A file that cannot be read, as something that its author must hear of.
fn unreadable(name: &str, reason: &str) -> ParsedFile {
    let finding = Finding {
        file: name.to_owned(),
        line: None,
        column: None,
        object: None,
        path: String::new(),
        severity: Severity::Error,
        message: format!("cannot be read: {reason}"),
    };
    ParsedFile {
        objects: Vec::new(),
        findings: vec![finding],
    }
}

/// Reads `path`, which is a directory or a single file, once; for `outrigger validate`.
///
/// # Errors
/// When it is neither.
pub fn read_once(path: &Path) -> io::Result<Vec<(String, Option<ParsedFile>)>> {
    let files = if path.is_dir() {
        list(path)?
    } else {
        fs::metadata(path)?;
        BTreeMap::from([(path.to_string_lossy().into_owned(), path.to_owned())])
    };
    let read_one = |name: &str, path: &Path| {
        let text = fs::metadata(path)
            .map_err(|error| error.to_string())
            .and_then(|metadata| read(path, &Stamp::of(&metadata)));
        match text {
            Ok(text) => parse::parse_file(name, &text),
            Err(reason) => unreadable(name, &reason),
        }
    };
    Ok(files
        .into_iter()
        .map(|(name, path)| {
            let parsed = read_one(&name, &path);
            (name, Some(parsed))
        })
        .collect())
}
