//! The last good text of each file, kept under the data directory: a file that is broken when the
//! control plane starts falls back to what it said before, as it would have without the restart.

use std::{fs, io, path::PathBuf};

/// A directory with one copy per file.
#[derive(Debug)]
pub struct LastGood {
    folder: PathBuf,
}

impl LastGood {
    /// Uses `folder`, which is made if missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// What a file last said without errors.
    pub fn load(&self, name: &str) -> Option<String> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "cannot read the last good version of {name}");
                None
            }
        }
    }

    /// Remembers it, whole or not at all; a failure costs no more than the memory.
    pub fn save(&self, name: &str, text: &str) {
        let path = self.path(name);
        if let Err(error) = outrigger_base::file::replace(&path, text) {
            tracing::warn!(%error, "cannot keep the last good version of {name}");
        }
    }

    /// Forgets every file but these.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_there(&decode(&name))
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(%error, "cannot remove {}", entry.path().display());
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(encode(name))
    }
}

/// A path within the configuration as one file name.
fn encode(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

fn decode(name: &str) -> String {
    name.replace("%2F", "/").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let open = || LastGood::open(folder.path().join("good")).unwrap();
        let kept = open();
        for (name, text) in [
            ("a.yaml", "one"),
            ("shop/a%2F.yaml", "two"),
            ("b.yaml", "three"),
        ] {
            kept.save(name, text);
        }
        kept.save("a.yaml", "four");
        let kept = open();
        assert_eq!(kept.load("a.yaml").as_deref(), Some("four"));
        assert_eq!(kept.load("shop/a%2F.yaml").as_deref(), Some("two"));
        assert_eq!(kept.load("shop/a.yaml"), None);
        kept.retain(|name| name == "shop/a%2F.yaml");
        assert_eq!(kept.load("a.yaml"), None);
        assert_eq!(kept.load("shop/a%2F.yaml").as_deref(), Some("two"));
    }
}
