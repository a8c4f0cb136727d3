//! Resources from files (`path_config_source`), watched for atomic replacement.
//!
//! A file holds one `DiscoveryResponse`: YAML or JSON, or the wire form where its name ends in `.pb`.

use std::path::{Path, PathBuf};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use outrigger_proto::envoy::service::discovery::v3::DiscoveryResponse;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::config::source::PathSource;

/// Reads the response that a file holds.
///
/// # Errors
/// With the file's name and the place of the error in it.
pub(super) fn read(path: &Path) -> Result<DiscoveryResponse, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    if path.extension().is_some_and(|extension| extension == "pb") {
        return DiscoveryResponse::decode(bytes.as_slice())
            .map_err(|error| format!("{shown}: {error}"));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| format!("{shown}: the file is not UTF-8 text"))?;
    let value = outrigger_proto::parse_yaml(&text).map_err(|error| format!("{shown}: {error}"))?;
    outrigger_proto::message_from_value(value).map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("{shown}: {error}"))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

/// Tells on `changed` whenever something at the file's place may have changed, for as long as it
/// lives.
#[derive(Debug)]
pub(super) struct FileWatch {
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Watches the directory that the file (or the said one) is in: replacement by rename, also of a
    /// directory behind a symbolic link as Kubernetes does it, is an event there, not on the file.
    ///
    /// # Errors
    /// When the directory can't be watched.
    pub(super) fn new(
        source: &PathSource,
        changed: mpsc::UnboundedSender<PathBuf>,
    ) -> Result<Self, String> {
        let directory = match &source.watched_directory {
            Some(directory) => directory.clone(),
            None => match source.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
                _ => PathBuf::from("."),
            },
        };
        let path = source.path.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let is_change = event.map_or(true, |event| !event.kind.is_access());
                if is_change {
                    // The receiver is gone only when the proxy stops.
                    drop(changed.send(path.clone()));
                }
            })
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        watcher
            .watch(&directory, RecursiveMode::NonRecursive)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(Self { _watcher: watcher })
    }
}
