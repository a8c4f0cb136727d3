//! Many files → one consistent set of objects.
//!
//! A file is taken whole or not at all: while it has an error, what it last said without errors
//! stays in force. The same object in two files is an error of the file that had it last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Finding, Located, ParsedFile, finding::Problem};
use crate::model::{Object, ObjectRef};

/// All files of a source, each with what it says now and what of it is in force.
#[derive(Clone, Debug, Default)]
pub struct FileSet {
    files: BTreeMap<String, FileState>,
}

/// One file of a [`FileSet`].
#[derive(Clone, Debug, Default)]
pub struct FileState {
    /// As last read.
    latest: ParsedFile,
    /// What is in force: `latest`'s objects, or those of the last version without errors.
    in_force: Vec<Located>,
    /// Errors and warnings of the last version read, duplicates included.
    findings: Vec<Finding>,
    /// Whether an older version is in force.
    stale: bool,
}

impl FileState {
    /// Errors and warnings of the last version read.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the last version read is refused and an older one (or nothing) is in force.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// The objects that are in force.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.in_force.iter().map(|located| &located.object)
    }
}

impl FileSet {
    /// Takes in what changed: `None` is a file that is gone.
    pub fn update(&mut self, changes: impl IntoIterator<Item = (String, Option<ParsedFile>)>) {
        for (name, parsed) in changes {
            match parsed {
                Some(parsed) => self.files.entry(name).or_default().latest = parsed,
                None => {
                    self.files.remove(&name);
                }
            }
        }
        let mut refused: BTreeSet<String> = self
            .files
            .iter()
            .filter(|(_, file)| !file.latest.is_valid())
            .map(|(name, _)| name.clone())
            .collect();
        let mut duplicates: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
        // A refused file falls back to its last good objects, which may in turn collide with what
        // another file says now: at most one round per file.
        loop {
            let found = self.duplicates(&refused);
            if found.is_empty() {
                break;
            }
            for (name, finding) in found {
                refused.insert(name.clone());
                duplicates.entry(name).or_default().push(finding);
            }
        }
        for (name, file) in &mut self.files {
            file.stale = refused.contains(name);
            if !file.stale {
                file.in_force = file.latest.objects.clone();
            }
            file.findings = file.latest.findings.clone();
            file.findings
                .extend(duplicates.remove(name).unwrap_or_default());
        }
    }

    /// Every file by name.
    pub fn files(&self) -> &BTreeMap<String, FileState> {
        &self.files
    }

    /// Every object in force.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.files.values().flat_map(FileState::objects)
    }

    /// Which file each object in force comes from.
    pub fn origins(&self) -> BTreeMap<ObjectRef, &str> {
        self.files
            .iter()
            .flat_map(|(name, file)| file.objects().map(move |o| (o.reference(), name.as_str())))
            .collect()
    }

    /// Errors and warnings of all files.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.files.values().flat_map(|file| &file.findings)
    }

    fn duplicates(&self, refused: &BTreeSet<String>) -> Vec<(String, Finding)> {
        let mut holders: BTreeMap<ObjectRef, Vec<(&String, &FileState)>> = BTreeMap::new();
        for (name, file) in &self.files {
            let objects = if refused.contains(name) {
                &file.in_force
            } else {
                &file.latest.objects
            };
            for located in objects {
                holders
                    .entry(located.object.reference())
                    .or_default()
                    .push((name, file));
            }
        }
        let mut found = Vec::new();
        for (object, holders) in holders.into_iter().filter(|(_, holders)| holders.len() > 1) {
            let had_it = |file: &FileState| file.objects().any(|o| o.reference() == object);
            // Whoever had the object keeps it; among newcomers, the first by name.
            let owner = holders
                .iter()
                .find(|(name, _)| refused.contains(*name))
                .or_else(|| holders.iter().find(|(_, file)| had_it(file)))
                .or_else(|| holders.first());
            let Some((owner, _)) = owner else { continue };
            for (name, _) in holders.iter().filter(|(name, _)| name != owner) {
                if !refused.contains(*name) {
                    let message = format!("already defined in {owner}");
                    let problem = Problem::new("metadata.name", message);
                    found.push((
                        (*name).clone(),
                        Finding::error(name, Some(&object), problem),
                    ));
                }
            }
        }
        found
    }
}
