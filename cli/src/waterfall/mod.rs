//! Draws a trace as a waterfall of text: a tree of spans with bars on one time axis.
//!
//! Pure: width and colour are arguments. Whatever names a trace carries, no line is wider than asked for and
//! no control character reaches the terminal.

#[cfg(test)]
mod tests;
mod text;
mod trace;

use std::collections::HashMap;

use crossterm::style::{Color, StyledContent, Stylize as _, style};

pub(crate) use text::{clean, duration, fit};
use trace::Row;
pub(crate) use trace::{Span, Trace};

/// Narrower than this there is no room for names and bars.
const MIN_WIDTH: usize = 40;
/// Room for a duration such as `123.45 ms`, and for the mark of an error.
const DURATION: usize = 10;
const MARK: usize = 2;
/// Colours of services, in order of appearance; red is for errors.
const COLOURS: [Color; 6] = [
    Color::Cyan,
    Color::Green,
    Color::Yellow,
    Color::Blue,
    Color::Magenta,
    Color::DarkCyan,
];

/// Draws the trace in lines of at most `width` columns (40 at least), each ended by a newline.
pub(crate) fn render(trace: &Trace, width: usize, colour: bool) -> String {
    let width = width.max(MIN_WIDTH);
    let rows = trace.tree();
    let painter = Painter::new(&rows, colour);
    let widest = rows
        .iter()
        .map(|row| text::width(&label(row)))
        .max()
        .unwrap_or(0);
    let names = widest.clamp(8, width * 45 / 100);
    let bars = width - names - DURATION - MARK - 2;
    let axis = Axis::new(trace, bars);

    let mut out = String::new();
    for line in text::wrap(&trace.headline(), width) {
        out.push_str(&painter.paint(&line, None, true));
        out.push('\n');
    }
    out.push_str(&format!("{:names$} {}\n", "", axis.ruler()));
    for row in &rows {
        out.push_str(&span_line(row, names, &axis, &painter));
        if let Some(note) = note(row.span) {
            let indent = text::width(&row.lead).min(names / 2) + 2;
            for line in text::wrap(&note, width - indent) {
                let line = painter.paint(&line, row.span.is_error().then_some(Color::Red), false);
                out.push_str(&format!("{:indent$}{line}\n", ""));
            }
        }
    }
    for warning in &trace.warnings {
        for line in text::wrap(&format!("warning: {}", clean(warning)), width) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

fn label(row: &Row<'_>) -> String {
    format!(
        "{}{} {}",
        row.lead,
        clean(&row.span.service),
        clean(&row.span.operation)
    )
}

fn span_line(row: &Row<'_>, names: usize, axis: &Axis, painter: &Painter<'_>) -> String {
    let span = row.span;
    let service_colour = painter.of(&span.service);
    // A deep tree must leave room for the name: the innermost part of the lead is kept.
    let lead = text::fit_end(&row.lead, names / 2);
    let room = names - text::width(&lead);
    let service = fit(&clean(&span.service), room);
    let room = room - text::width(&service);
    let operation = if room > 2 {
        format!(" {}", fit(&clean(&span.operation), room - 1))
    } else {
        String::new()
    };
    let pad = room - text::width(&operation);
    let (before, bar) = axis.bar(span);
    let after = axis.columns.saturating_sub(before + text::width(&bar));
    let (mark, bar_colour) = if span.is_error() {
        ("✗", Some(Color::Red))
    } else {
        (" ", service_colour)
    };
    let duration = duration(span.duration_us);
    let line = format!(
        "{lead}{}{operation}{:pad$} {:before$}{}{:after$} {duration:>DURATION$} {}",
        painter.paint(&service, service_colour, true),
        "",
        "",
        painter.paint(&bar, bar_colour, false),
        "",
        painter.paint(mark, Some(Color::Red), true),
    );
    let mut line = line.trim_end().to_owned();
    line.push('\n');
    line
}

/// What the proxy says about an unusual end: status, response flags and reason.
fn note(span: &Span) -> Option<String> {
    let mut parts = Vec::new();
    let status = span
        .tag("http.response.status_code")
        .or_else(|| span.tag("http.status_code"));
    let unusual = |status: &str| status.parse::<u16>().is_ok_and(|status| status >= 400);
    if let Some(status) = status.filter(|status| span.is_error() || unusual(status)) {
        parts.push(format!("status {status}"));
    }
    let grpc = span
        .tag("rpc.grpc.status_code")
        .or_else(|| span.tag("grpc.status_code"));
    if let Some(code) = grpc.filter(|code| *code != "0") {
        parts.push(format!("grpc-status {code}"));
    }
    if let Some(flags) = span.response_flags() {
        parts.push(format!("flags {flags}"));
    }
    let details = span
        .tag("outrigger.response_code_details")
        .filter(|_| !parts.is_empty());
    let texts = [
        span.tag("outrigger.reason").or(details),
        span.tag("outrigger.transport_failure"),
        span.tag("otel.status_description"),
    ];
    parts.extend(texts.into_iter().flatten().map(str::to_owned));
    (!parts.is_empty()).then(|| format!("↳ {}", clean(&parts.join(" · "))))
}

/// The common time axis of all bars.
struct Axis {
    start: u64,
    length: u64,
    columns: usize,
}

impl Axis {
    fn new(trace: &Trace, columns: usize) -> Self {
        let (start, end) = trace.range();
        Self {
            start,
            length: (end - start).max(1),
            columns,
        }
    }

    /// Start and end of the axis, right above the bars.
    fn ruler(&self) -> String {
        let end = duration(self.length);
        let room = self.columns.saturating_sub(text::width(&end) + 1);
        format!("0{:room$}{end}", "")
    }

    /// Columns before the bar, and the bar: at least a sliver, never past the end.
    fn bar(&self, span: &Span) -> (usize, String) {
        let column = |time: u64| {
            let part = u128::from(time - self.start) * self.columns as u128;
            usize::try_from(part / u128::from(self.length))
                .unwrap_or(0)
                .min(self.columns)
        };
        let begin = column(span.start_us).min(self.columns.saturating_sub(1));
        let end = column(span.end_us());
        let bar = if end > begin {
            "█".repeat(end - begin)
        } else {
            "▏".to_owned()
        };
        (begin, bar)
    }
}

struct Painter<'a> {
    colours: HashMap<&'a str, Color>,
    on: bool,
}

impl<'a> Painter<'a> {
    fn new(rows: &[Row<'a>], on: bool) -> Self {
        let mut colours = HashMap::new();
        for row in rows {
            let next = COLOURS[colours.len() % COLOURS.len()];
            colours.entry(row.span.service.as_str()).or_insert(next);
        }
        Self { colours, on }
    }

    fn of(&self, service: &str) -> Option<Color> {
        self.colours.get(service).copied()
    }

    fn paint(&self, text: &str, colour: Option<Color>, bold: bool) -> String {
        if !self.on || text.trim().is_empty() {
            return text.to_owned();
        }
        let mut styled: StyledContent<&str> = style(text);
        if let Some(colour) = colour {
            styled = styled.with(colour);
        }
        if bold {
            styled.bold().to_string()
        } else {
            styled.to_string()
        }
    }
}
