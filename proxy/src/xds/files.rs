//! Resources from files (`path_config_source`), watched for atomic replacement.
//!
//! A file holds one `DiscoveryResponse`: YAML or JSON, or the wire form where its name ends in `.pb`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
            route::v3::RouteConfiguration,
        },
        service::discovery::v3::{DiscoveryResponse, Resource as Wrapped},
    },
    google::protobuf::Any,
};
use prost::{Message, Name};
use tokio::sync::mpsc;

use crate::{
    config::{
        bootstrap::Bootstrap,
        cluster::Discovery,
        http_connection_manager::RouteSource,
        source::{ConfigSource, PathSource, SourceKind},
    },
    convert::ConfigError,
    snapshot::{Origin, Resource, state::Kind},
};

/// Checks that the files which a bootstrap names are there: a name that is wrong would otherwise show
/// only in what is missing.
///
/// # Errors
/// The path of each field whose file is not there.
pub fn check_files(bootstrap: &Bootstrap) -> Result<(), Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut check = |at: String, source: &ConfigSource| {
        if let SourceKind::Path(source) = &source.kind
            && !source.path.exists()
        {
            errors.push(ConfigError {
                path: format!("{at}.path_config_source.path"),
                reason: format!("no such file: '{}'", source.path.display()),
            });
        }
    };
    for (name, source) in [("lds", &bootstrap.lds), ("cds", &bootstrap.cds)] {
        if let Some(source) = source {
            check(format!("dynamic_resources.{name}_config"), source);
        }
    }
    for (index, cluster) in bootstrap.clusters.iter().enumerate() {
        if let Discovery::Eds { source, .. } = &cluster.discovery {
            let at = format!("static_resources.clusters[{index}].eds_cluster_config.eds_config");
            check(at, source);
        }
    }
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        for (chain, filters) in listener.filter_chains.iter().enumerate() {
            let Some(manager) = filters.filter.http() else {
                continue;
            };
            if let RouteSource::Rds { source, .. } = &manager.routes {
                let at = format!(
                    "static_resources.listeners[{index}].filter_chains[{chain}].filters[0].typed_config.rds.config_source"
                );
                check(at, source);
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// The resources that a file's bytes hold, in their order.
///
/// # Errors
/// Every error, with the file's name and the place in it; then the whole file counts for nothing.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(Kind, Resource)>, String> {
    let shown = path.display();
    // A file that is just being written over is empty for a moment: that must not remove everything.
    if bytes.trim_ascii().is_empty() {
        return Err(format!("{shown}: the file is empty"));
    }
    let response = response(path, bytes)?;
    let version = Arc::<str>::from(response.version_info.as_str());
    let now = SystemTime::now();
    let mut seen = BTreeSet::new();
    let mut resources = Vec::with_capacity(response.resources.len());
    let mut errors = Vec::new();
    for (index, body) in response.resources.into_iter().enumerate() {
        let checked = named(body).and_then(|(kind, name, body)| {
            if seen.insert((kind, Arc::clone(&name))) {
                Ok((kind, name, body))
            } else {
                Err(format!("`{name}` is there twice"))
            }
        });
        match checked {
            Ok((kind, name, body)) => resources.push((
                kind,
                Resource {
                    name,
                    version: Arc::clone(&version),
                    body,
                    origin: Origin::Dynamic,
                    updated: now,
                },
            )),
            Err(reason) => errors.push(format!("{shown}: resources[{index}]: {reason}")),
        }
    }
    if errors.is_empty() {
        Ok(resources)
    } else {
        Err(errors.join("\n"))
    }
}

fn response(path: &Path, bytes: &[u8]) -> Result<DiscoveryResponse, String> {
    let shown = path.display();
    if path.extension().is_some_and(|extension| extension == "pb") {
        return DiscoveryResponse::decode(bytes).map_err(|error| format!("{shown}: {error}"));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_| format!("{shown}: the file is not UTF-8 text"))?;
    let value = outrigger_proto::parse_yaml(text).map_err(|error| format!("{shown}: {error}"))?;
    outrigger_proto::message_from_value(value).map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("{shown}: {error}"))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

/// A resource's kind and name, taken out of the wrapper that it may be in.
fn named(body: Any) -> Result<(Kind, Arc<str>, Any), String> {
    let body = if body.type_url == Wrapped::type_url() {
        Wrapped::decode(body.value.as_slice())
            .map_err(|error| error.to_string())?
            .resource
            .ok_or("resource: value is required")?
    } else {
        body
    };
    let kind = Kind::of(&body.type_url)
        .ok_or_else(|| format!("`{}` is not a resource that we take", body.type_url))?;
    let bytes = body.value.as_slice();
    let name = match kind {
        Kind::Cluster => Cluster::decode(bytes).map(|message| message.name),
        Kind::Endpoints => ClusterLoadAssignment::decode(bytes).map(|one| one.cluster_name),
        Kind::Listener => Listener::decode(bytes).map(|message| message.name),
        Kind::Route => RouteConfiguration::decode(bytes).map(|message| message.name),
    }
    .map_err(|error| error.to_string())?;
    if name.is_empty() {
        return Err("a resource in a file needs a name".to_owned());
    }
    Ok((kind, Arc::from(name), body))
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
                if event.map_or(true, |event| is_replacement(event.kind)) {
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

/// Something came, went or was moved, or a writer has finished. Not every write: the file may be half
/// written.
fn is_replacement(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Any
            | EventKind::Other
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{check_files, parse};
    use crate::bootstrap::{Overrides, load};

    #[test]
    fn files_that_are_not_there_are_named_with_their_fields() {
        let source = "{path_config_source: {path: /no/such/file}}";
        let yaml = format!(
            "{{node: {{id: n, cluster: c}}, dynamic_resources: {{cds_config: {source}, lds_config: {{path_config_source: {{path: /}}}}}}, \
             static_resources: {{clusters: [{{name: a, type: EDS, eds_cluster_config: {{eds_config: {source}}}}}]}}}}"
        );
        let errors = check_files(&load(&yaml, &Overrides::default()).unwrap()).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "dynamic_resources.cds_config.path_config_source.path",
                "static_resources.clusters[0].eds_cluster_config.eds_config.path_config_source.path",
            ]
        );
    }

    fn errors(text: &str) -> String {
        parse(Path::new("x.yaml"), text.as_bytes()).unwrap_err()
    }

    #[test]
    fn resources_have_their_names_and_kinds() {
        let text = r#"
version_info: "7"
resources:
- {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}
- "@type": type.googleapis.com/envoy.service.discovery.v3.Resource
  name: ignored
  resource: {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: b}
"#;
        let resources = parse(Path::new("x.yaml"), text.as_bytes()).unwrap();
        let names = resources
            .iter()
            .map(|(_, one)| &*one.name)
            .collect::<Vec<_>>();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(&*resources[0].1.version, "7");
    }

    #[test]
    fn empty_file_is_an_error_but_no_resources_are_not() {
        assert!(errors(" \n").contains("empty"));
        assert!(
            parse(Path::new("x.yaml"), b"resources: []")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn every_error_of_a_file_is_told() {
        let text = r#"
resources:
- {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}
- {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}
- {"@type": type.googleapis.com/envoy.service.runtime.v3.Runtime, name: c}
- {"@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration}
"#;
        let found = errors(text);
        for expected in [
            "resources[1]: `a` is there twice",
            "resources[2]: `type.googleapis.com/envoy.service.runtime.v3.Runtime`",
            "resources[3]: a resource in a file needs a name",
        ] {
            assert!(found.contains(expected), "{found}");
        }
    }
}
