//! Finds the line of a field path in the text. Used only when there is something to report, so
//! that reading a good file costs one parse.

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};

use super::finding::Finding;

/// Fills in the lines of `findings`, each given with the number of its document.
pub(super) fn locate(text: &str, findings: &mut [(usize, Finding)]) {
    if findings.iter().all(|(_, finding)| finding.line.is_some()) {
        return;
    }
    let Ok(documents) = MarkedYaml::load_from_str(text) else {
        return;
    };
    for (document, finding) in findings
        .iter_mut()
        .filter(|(_, finding)| finding.line.is_none())
    {
        if let Some((line, column)) = documents
            .get(*document)
            .and_then(|root| position(root, &finding.path))
        {
            finding.line = Some(line);
            finding.column = Some(column);
        }
    }
}

/// The position of the deepest node of `path` that exists: of the key where there is one.
fn position(root: &MarkedYaml<'_>, path: &str) -> Option<(usize, usize)> {
    let mut node = root;
    let mut marker = root.span.start;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        match &node.data {
            YamlData::Mapping(entries) => {
                let found = entries
                    .iter()
                    .find(|(key, _)| key.data.as_str() == Some(step));
                let Some((key, value)) = found else { break };
                marker = key.span.start;
                node = value;
            }
            YamlData::Sequence(items) => {
                let item = step.trim_end_matches(']').parse::<usize>().ok();
                let Some(value) = item.and_then(|item| items.get(item)) else {
                    break;
                };
                marker = value.span.start;
                node = value;
            }
            _ => break,
        }
    }
    // saphyr counts lines from 1 and columns from 0.
    Some((marker.line(), marker.col() + 1))
}
