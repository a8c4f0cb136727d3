//! Time formats of `%START_TIME%` and its kin: strftime, and Envoy's specifiers for fractions.

use jiff::{Timestamp, fmt::strtime::BrokenDownTime, tz::TimeZone};

use super::FormatError;

/// A parsed time format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    /// In order; empty is Envoy's default, RFC 3339 with milliseconds.
    pieces: Box<[TimePiece]>,
}

/// A part of a [`TimeFormat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimePiece {
    /// strftime specifiers and text.
    Strftime(Box<str>),
    /// This many digits of the fraction of the second (`%f`, `%3f`, `%6f`, `%9f`).
    Fraction(usize),
    /// Seconds since 1970 (`%s`).
    Epoch,
    /// Seconds of the minute with a fraction (`%E3S`).
    Seconds(usize),
}

impl TimeFormat {
    /// RFC 3339 with milliseconds, in UTC: `2016-12-15T20:17:45.123Z`.
    #[must_use]
    pub fn rfc3339_millis() -> Self {
        Self {
            pieces: Box::default(),
        }
    }

    /// Parses a format; an empty one is the default.
    ///
    /// # Errors
    /// A specifier is unknown.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, after) = rest.split_at(at);
            plain.push_str(before);
            let (piece, length) = fraction(after);
            match piece {
                Some(piece) => {
                    push_plain(&mut pieces, &mut plain)?;
                    pieces.push(piece);
                }
                // The specifier's own letter must not start another one: `%%3f` is `%3f` in text.
                None => plain.push_str(after.get(..length).unwrap_or(after)),
            }
            rest = after.get(length..).unwrap_or("");
        }
        plain.push_str(rest);
        push_plain(&mut pieces, &mut plain)?;
        Ok(Self {
            pieces: pieces.into(),
        })
    }

    /// The parts in order; none is the default format.
    #[must_use]
    pub fn pieces(&self) -> &[TimePiece] {
        &self.pieces
    }
}

/// What stands at the start of `text`, which begins with `%`: our own kind of piece if it is one, and
/// its length.
fn fraction(text: &str) -> (Option<TimePiece>, usize) {
    match text.as_bytes() {
        [b'%', b'f', ..] => (Some(TimePiece::Fraction(9)), 2),
        [b'%', b's', ..] => (Some(TimePiece::Epoch), 2),
        [b'%', digit @ b'1'..=b'9', b'f', ..] => {
            (Some(TimePiece::Fraction(usize::from(digit - b'0'))), 3)
        }
        // As in Envoy, a width does not add a fraction.
        [b'%', b'1'..=b'9', b's', ..] => (Some(TimePiece::Epoch), 3),
        [b'%', b'E', digit @ b'1'..=b'9', b'S', ..] => {
            (Some(TimePiece::Seconds(usize::from(digit - b'0'))), 4)
        }
        [b'%', b'E', b'*', b'S', ..] => (Some(TimePiece::Seconds(9)), 4),
        _ => (None, 1 + text.chars().nth(1).map_or(0, char::len_utf8)),
    }
}

fn push_plain(pieces: &mut Vec<TimePiece>, plain: &mut String) -> Result<(), FormatError> {
    if plain.is_empty() {
        return Ok(());
    }
    // A trial run finds unknown specifiers, so that formatting cannot fail later.
    let trial = Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
    let trial = BrokenDownTime::from(&trial);
    if let Err(error) = trial.to_string(&*plain) {
        return Err(FormatError::new(format!(
            "bad time format '{plain}': {error}"
        )));
    }
    pieces.push(TimePiece::Strftime(std::mem::take(plain).into()));
    Ok(())
}
