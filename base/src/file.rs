//! Files that others may read at any time.

use std::{io, path::Path};

/// Replaces a file, whole or not at all: it is written beside its place, with `.new` at the end of its
/// name, and moved there.
///
/// # Errors
/// When it cannot be written; the old one is still there then.
pub fn replace(path: &Path, contents: impl AsRef<[u8]>) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, contents)?;
    std::fs::rename(&beside, path)
}
