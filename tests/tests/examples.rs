//! Every file under `examples/` is one that the programs accept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::proxy::{self, Kind};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Files beside each other are bootstraps of the proxy.
#[tokio::test]
async fn bootstraps_are_accepted() -> Result<()> {
    let files = files(&examples())?;
    ensure!(!files.is_empty(), "no examples");
    for path in files {
        let text = std::fs::read_to_string(&path)?;
        let (code, output) = proxy::validate(Kind::Outrigger, &text).await?;
        ensure!(code == 0, "{}: exit code {code}\n{output}", path.display());
    }
    Ok(())
}

/// Each folder is one mesh.
#[test]
fn meshes_are_accepted() -> Result<()> {
    let mut count = 0;
    for entry in std::fs::read_dir(examples())? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        for path in files(&folder)? {
            let text = std::fs::read_to_string(&path)?;
            let parsed = outrigger_mesh::parse::parse_file(&path.display().to_string(), &text);
            ensure!(
                parsed.is_valid(),
                "{}: {:#?}",
                path.display(),
                parsed.findings
            );
            count += 1;
        }
    }
    ensure!(count > 0, "no example of a mesh");
    Ok(())
}
