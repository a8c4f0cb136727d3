//! What the demo shows in the terminal: plain lines where it is none, one live line where it is.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Instant,
};

use super::{load::Counts, mesh::Sync, report::Report};

/// The demo's output.
#[derive(Debug)]
pub(crate) struct View {
    json: bool,
    is_terminal: bool,
    start: Instant,
    has_live_line: bool,
    last_plain: Option<Instant>,
}

impl View {
    /// With `json`, everything but the final object goes to stderr.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            is_terminal: std::io::stderr().is_terminal()
                && (json || std::io::stdout().is_terminal()),
            start: Instant::now(),
            has_live_line: false,
            last_plain: None,
        }
    }

    /// A new scene begins.
    pub(crate) fn scene(&mut self, text: &str) {
        self.line(
            &format!("{:>6.1}s  ▶ {text}", self.start.elapsed().as_secs_f64()),
            true,
        );
    }

    /// Something worth a line.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(
            &format!("{:>6.1}s    {text}", self.start.elapsed().as_secs_f64()),
            false,
        );
    }

    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) {
        self.end_live();
        self.write(text);
    }

    /// The counts of now.
    pub(crate) fn live(&mut self, counts: &Counts, sync: Option<Sync>) {
        let mut text = format!("{} requests, {} failed", counts.requests, counts.failed);
        for (phase, versions) in &counts.versions {
            let total = versions.values().sum::<u64>().max(1);
            let shares = versions
                .iter()
                .map(|(version, count)| format!("{version} {}%", count * 100 / total))
                .collect::<Vec<_>>()
                .join(" ");
            text.push_str(&format!(" · {phase}: {shares}"));
        }
        match sync {
            Some(sync) => text.push_str(&format!(
                " · {}/{} proxies in sync",
                sync.in_sync, sync.proxies
            )),
            None => text.push_str(" · control plane away"),
        }
        if self.is_terminal {
            let stamp = self.start.elapsed().as_secs_f64();
            eprint!("\r\x1b[2K{stamp:>6.1}s    {text}");
            drop(std::io::stderr().flush());
            self.has_live_line = true;
        } else if self
            .last_plain
            .is_none_or(|last| last.elapsed().as_secs() >= 5)
        {
            self.last_plain = Some(Instant::now());
            self.note(&text);
        }
    }

    /// Leaves the live line as it is.
    pub(crate) fn end_live(&mut self) {
        if self.has_live_line {
            eprintln!();
            self.has_live_line = false;
        }
    }

    /// The result: one JSON object, or a summary.
    pub(crate) fn finish(&mut self, report: &Report) -> anyhow::Result<()> {
        self.end_live();
        if self.json {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, report)?;
            writeln!(out)?;
            return Ok(());
        }
        // The other scenes have said what there was to see.
        if report.requests > 0 {
            self.write(&summary(report));
        }
        Ok(())
    }

    fn line(&mut self, text: &str, is_bold: bool) {
        self.end_live();
        if is_bold && self.is_terminal {
            self.write(&format!("\x1b[1m{text}\x1b[0m\n"));
        } else {
            self.write(&format!("{text}\n"));
        }
    }

    fn write(&self, text: &str) {
        // A closed pipe must not end the demo before it has cleaned up.
        if self.json {
            drop(std::io::stderr().lock().write_all(text.as_bytes()));
        } else {
            drop(std::io::stdout().lock().write_all(text.as_bytes()));
        }
    }
}

fn summary(report: &Report) -> String {
    let mut text = format!(
        "\n{} requests in {:.1} s, {} failed\n",
        report.requests, report.duration_s, report.failed
    );
    for error in &report.errors {
        text.push_str(&format!("  {error}\n"));
    }
    for (phase, versions) in &report.versions {
        let total = versions.values().sum::<u64>().max(1);
        let shares = versions
            .iter()
            .map(|(version, count)| format!("{version} {count} ({}%)", count * 100 / total))
            .collect::<Vec<_>>()
            .join(", ");
        text.push_str(&format!("  weights {phase:>7}: {shares}\n"));
    }
    for edit in &report.edits {
        text.push_str(&format!(
            "  edit to {}: acknowledged by {} of {} proxies after {:.0} ms\n",
            edit.weights, edit.acked_by, edit.proxies, edit.ack_ms
        ));
    }
    for event in &report.events {
        text.push_str(&format!(
            "  {}: in sync after {:.0} ms\n",
            event.what, event.healed_ms
        ));
    }
    for (hop, latency) in &report.latency_ms {
        text.push_str(&format!(
            "  {hop}: p50 {:.1} ms, p99 {:.1} ms\n",
            latency.p50, latency.p99
        ));
    }
    text.push_str(&format!(
        "  {} traces stored; {} has {} spans of {}\n",
        report.traces.stored,
        report.traces.example_id,
        report.traces.example_spans,
        report.traces.services.join(", ")
    ));
    text
}
