//! Where the certificates are kept: in a Secret, so that all replicas have the same, or in a directory.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use super::generations::Generations;

/// What this program reads and writes.
const ALL: &str = "generations.json";
/// What whoever calls the webhook trusts.
pub const BUNDLE: &str = "ca.crt";

/// A place for certificates.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory of this process.
    Directory(PathBuf),
    /// A Secret of all replicas.
    Secret {
        /// The Secrets of the mesh's namespace.
        api: Api<Secret>,
        /// Its name.
        name: String,
    },
}

/// What is kept, and which version of it that is.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The certificates.
    pub generations: Generations,
    object: Option<Secret>,
}

impl Store {
    /// What is kept; nothing if that is damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn load(&self) -> anyhow::Result<Kept> {
        let (text, object) = match self {
            Self::Directory(folder) => {
                let file = folder.join(ALL);
                let text = match fs::read(&file) {
                    Ok(text) => Some(text),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error).context(file.display().to_string()),
                };
                (text, None)
            }
            Self::Secret { api, name } => {
                let object = api
                    .get_opt(name)
                    .await
                    .with_context(|| format!("reading Secret {name}"))?;
                let data = object.as_ref().and_then(|object| object.data.as_ref());
                let text = data.and_then(|data| Some(data.get(ALL)?.0.clone()));
                (text, object)
            }
        };
        let generations = match text.as_deref().map(serde_json::from_slice) {
            None => Generations::default(),
            Some(Ok(generations)) => generations,
            Some(Err(error)) => {
                tracing::warn!("the certificates that are kept are damaged and made anew: {error}");
                Generations::default()
            }
        };
        Ok(Kept {
            generations,
            object,
        })
    }

    /// Keeps others in place of those that were loaded. `false`: another replica was faster.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn save(&self, kept: &Kept, generations: &Generations) -> anyhow::Result<bool> {
        let text = serde_json::to_vec_pretty(generations)?;
        let bundle = generations.bundle().into_bytes();
        match self {
            Self::Directory(folder) => {
                fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                // Trust first: who reads the directory meets no certificate that it cannot check.
                write(&folder.join(BUNDLE), &bundle, 0o644)?;
                write(&folder.join(ALL), &text, 0o600)?;
                Ok(true)
            }
            Self::Secret { api, name } => {
                let mut object = kept.object.clone().unwrap_or_else(|| Secret {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        ..ObjectMeta::default()
                    },
                    type_: Some("Opaque".to_owned()),
                    ..Secret::default()
                });
                let data = [(ALL, text), (BUNDLE, bundle)];
                let data = data.map(|(key, value)| (key.to_owned(), ByteString(value)));
                object.data = Some(BTreeMap::from(data));
                let params = PostParams::default();
                let saved = match kept.object {
                    None => api.create(&params, &object).await,
                    Some(_) => api.replace(name, &params, &object).await,
                };
                match saved {
                    Ok(_) => Ok(true),
                    // It was made or changed meanwhile, or taken away.
                    Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
                    Err(error) => Err(error).with_context(|| format!("writing Secret {name}")),
                }
            }
        }
    }
}

/// Whole or not at all.
fn write(file: &Path, text: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let result = fs::remove_file(&temporary)
        .or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .and_then(|()| {
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary)?
                .write_all(text)
        })
        .and_then(|()| fs::rename(&temporary, file));
    result.with_context(|| file.display().to_string())
}
