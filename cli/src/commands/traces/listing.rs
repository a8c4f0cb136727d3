//! Traces as rows of a table.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::waterfall::{Trace, clean, duration, fit};

#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Row {
    id: String,
    service: String,
    operation: String,
    spans: usize,
    services: Vec<String>,
    duration_us: u64,
    errors: usize,
    start_us: u64,
    age_s: u64,
}

pub(super) fn rows(traces: &[Trace], now_us: u64) -> Vec<Row> {
    traces.iter().map(|trace| Row::new(trace, now_us)).collect()
}

impl Row {
    fn new(trace: &Trace, now_us: u64) -> Self {
        let (start, end) = trace.range();
        let root = trace.root();
        Self {
            id: trace.id.clone(),
            service: root.map_or_else(String::new, |span| span.service.clone()),
            operation: root.map_or_else(String::new, |span| span.operation.clone()),
            spans: trace.spans.len(),
            services: trace.services().into_iter().map(str::to_owned).collect(),
            duration_us: end - start,
            errors: trace.errors(),
            start_us: start,
            // Other clocks may be ahead of ours.
            age_s: now_us.saturating_sub(start) / 1_000_000,
        }
    }
}

/// Columns that the table needs besides the root: its other cells and the space between them.
const OTHERS: usize = 32 + 5 + 8 + 9 + 6 + 6 + 6 * 2 + 2;

pub(super) fn table(rows: &[Row], width: usize) -> String {
    let root_width = width.saturating_sub(OTHERS).max(20);
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "TRACE", "ROOT", "SPANS", "SERVICES", "DURATION", "ERRORS", "AGE",
        ]);
    for at in 2..=6 {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        let root = format!("{} {}", clean(&row.service), clean(&row.operation));
        table.add_row([
            clean(&row.id),
            fit(&root, root_width),
            row.spans.to_string(),
            row.services.len().to_string(),
            duration(row.duration_us),
            if row.errors == 0 {
                "-".to_owned()
            } else {
                row.errors.to_string()
            },
            age(row.age_s),
        ]);
    }
    table.trim_fmt() + "\n"
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
