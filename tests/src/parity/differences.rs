//! `docs/differences.md` as the harness reads it: the third-level headings are the ids.

use std::path::Path;

use anyhow::{Context as _, Result};

/// The differences that are documented.
#[derive(Debug)]
pub struct Differences {
    ids: Vec<String>,
    everywhere: Vec<String>,
}

impl Differences {
    /// Reads the document.
    pub fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut differences = Self {
            ids: Vec::new(),
            everywhere: Vec::new(),
        };
        let mut section = "";
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title.trim();
            } else if let Some(id) = line.strip_prefix("### ") {
                let list = match section {
                    "In every case" => &mut differences.everywhere,
                    _ => &mut differences.ids,
                };
                list.push(id.trim().to_owned());
            }
        }
        Ok(differences)
    }

    /// Whether a case may name this id.
    pub fn has(&self, id: &str) -> bool {
        self.ids.iter().any(|known| known == id)
    }

    /// The ids that cases must show.
    pub fn case_ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(String::as_str)
    }
}
