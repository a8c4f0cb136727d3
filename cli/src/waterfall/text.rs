//! Text that fits a terminal: columns counted as Unicode says, control characters replaced.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Names come from whoever sends spans: no escape sequence, line break or change of writing direction in them
/// may reach the terminal.
pub(crate) fn clean(text: &str) -> String {
    let harmless = |c: char| {
        let directs = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        let breaks = matches!(c, '\u{2028}' | '\u{2029}');
        if c.is_control() || directs || breaks {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(harmless).collect()
}

pub(super) fn width(text: &str) -> usize {
    // Character by character, as cuts are made: a cluster that the terminal joins may be narrower, not wider.
    text.chars()
        .map(|c| c.width().unwrap_or(0))
        .sum::<usize>()
        .max(text.width())
}

/// Cuts the text at the end to at most `room` columns, with an ellipsis.
pub(crate) fn fit(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        // A character may widen the one before it, so the whole is measured.
        if width(&cut) > room.saturating_sub(1) {
            cut.pop();
            break;
        }
    }
    if room > 0 {
        cut.push('…');
    }
    cut
}

/// Cuts the text at its beginning to at most `room` columns, with an ellipsis.
pub(super) fn fit_end(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let kept = text
        .char_indices()
        .rev()
        .map_while(|(at, _)| text.get(at..).filter(|end| width(end) < room))
        .last()
        .unwrap_or_default();
    if room > 0 {
        format!("…{kept}")
    } else {
        String::new()
    }
}

/// Breaks the text into lines of at most `room` columns, at spaces where it can.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let room = room.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width(&line) + 1 + width(word) > room {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            line.push(c);
            if width(&line) > room {
                line.pop();
                lines.push(std::mem::replace(&mut line, c.to_string()));
            }
        }
    }
    lines.push(line);
    lines
}

/// A time in the unit that people would use, three digits or more.
pub(crate) fn duration(micros: u64) -> String {
    let number = micros as f64;
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.2} ms", number / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", number / 1e6),
        60_000_000..3_600_000_000 => format!("{:.1} min", number / 60e6),
        3_600_000_000..864_000_000_000_000 => format!("{:.1} h", number / 3600e6),
        // Only a broken clock makes these; they must not break the columns.
        _ => "> 9999 d".to_owned(),
    }
}
