//! The proxy's modules import only what `ARCHITECTURE.md` lets them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

const CONFIG_HALF: [&str; 3] = ["bootstrap", "config", "convert"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The first words in backquotes of the rows of a table that begins with `head`.
fn rows(page: &str, head: &str) -> Result<Vec<Vec<String>>> {
    let (_, rest) = page
        .split_once(&format!("{head}\n"))
        .with_context(|| format!("no table {head}"))?;
    let rows = rest
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.split('|')
                .filter_map(|cell| cell.trim().strip_prefix('`')?.split('`').next())
                .map(|name| name.split('/').next().unwrap_or(name).to_owned())
                .collect()
        })
        .collect();
    Ok(rows)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
            found.push(path);
        }
    }
    Ok(())
}

/// The modules that come right after `crate::`, also in braces, outside of comments and tests.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let word = |text: &str| {
            text.trim_start()
                .chars()
                .take_while(|one| one.is_alphanumeric() || *one == '_')
                .collect::<String>()
        };
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let mut depth = 0_usize;
        let mut is_start = true;
        for (at, one) in list.char_indices() {
            match one {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => is_start = true,
                one if is_start && !one.is_whitespace() => {
                    names.insert(word(list.get(at..).unwrap_or_default()));
                    is_start = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn modules_import_downwards() -> Result<()> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let runtime = rows(&page, "| module | what it owns |")?
        .into_iter()
        .filter_map(|row| row.into_iter().next())
        .collect::<Vec<_>>();
    let upwards = rows(&page, "| from | to | what for |")?
        .into_iter()
        .filter_map(|row| Some((row.first()?.clone(), row.get(1)?.clone())))
        .collect::<BTreeSet<_>>();
    ensure!(runtime.len() > 8 && !upwards.is_empty(), "tables not found");
    let level = |name: &str| runtime.iter().position(|one| one == name);
    let is_config = |name: &str| CONFIG_HALF.contains(&name);

    let folder = root().join("proxy/src");
    let mut files = Vec::new();
    sources(&folder, &mut files)?;
    ensure!(files.len() > 50, "sources not found");
    let mut used = BTreeSet::new();
    let mut wrong = BTreeMap::new();
    for path in files {
        let place = path.strip_prefix(&folder)?;
        let first = place.components().next().context("a file has a name")?;
        let from = first.as_os_str().to_string_lossy();
        let from = from.trim_end_matches(".rs").to_owned();
        // The crate's root, its words for the command line, its allocator and the tests' belong to no half.
        if matches!(
            from.as_str(),
            "lib" | "main" | "args" | "allocator" | "allocations"
        ) {
            continue;
        }
        ensure!(
            is_config(&from) || level(&from).is_some(),
            "module `{from}` is not in the table of ARCHITECTURE.md"
        );
        for to in imports(&fs::read_to_string(&path)?) {
            let is_known = is_config(&to) || level(&to).is_some();
            if to == from || !is_known {
                continue;
            }
            let is_fine = match (level(&from), level(&to)) {
                (Some(from), Some(to)) => from < to,
                (Some(_), None) | (None, None) => true,
                (None, Some(_)) => false,
            };
            let edge = (from.clone(), to);
            if upwards.contains(&edge) {
                used.insert(edge);
            } else if !is_fine {
                wrong.insert(edge, place.display().to_string());
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "imports that ARCHITECTURE.md does not allow: {wrong:#?}"
    );
    let stale = upwards.difference(&used).collect::<Vec<_>>();
    ensure!(
        stale.is_empty(),
        "ARCHITECTURE.md allows what nobody needs: {stale:?}"
    );
    Ok(())
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "use crate::{a, b::{self, c}, d::E as F};\nfn f() { crate::g::h(); } // crate::no\n#[cfg(test)] use crate::t;";
    let names = imports(source).into_iter().collect::<Vec<_>>();
    assert_eq!(names, ["a", "b", "d", "g"]);
}
