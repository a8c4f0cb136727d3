//! Prints moments in the formats of [`crate::config::format::TimeFormat`].

use std::{
    io::Write,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, ZonedDateTime, fmt::strtime::BrokenDownTime, tz::TimeZone};

use crate::config::format::{TimeFormat, TimePiece};

/// In which zone a moment is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    Utc,
    Local,
}

static LOCAL: LazyLock<TimeZone> = LazyLock::new(TimeZone::system);

pub(super) fn write(
    moment: SystemTime,
    zone: Zone,
    format: &TimeFormat,
    out: &mut Vec<u8>,
) -> bool {
    let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let nanos = since_epoch.subsec_nanos();
    let Ok(timestamp) = Timestamp::new(seconds, nanos.cast_signed()) else {
        return false;
    };
    let zone = match zone {
        Zone::Utc => TimeZone::UTC,
        Zone::Local => LOCAL.clone(),
    };
    let time = timestamp.to_zoned_datetime(zone);
    if format.pieces().is_empty() {
        write_default(&time, nanos, out);
        return true;
    }
    let mut broken_down = None;
    for piece in format.pieces() {
        match piece {
            TimePiece::Strftime(text) => {
                let time = broken_down.get_or_insert_with(|| BrokenDownTime::from(&time));
                // The specifiers were tried when the format was parsed.
                let _tried = time.format(&**text, &mut *out);
            }
            TimePiece::Fraction(digits) => fraction(nanos, *digits, out),
            // Writing to a Vec cannot fail.
            TimePiece::Epoch => {
                let _infallible = write!(out, "{seconds}");
            }
            TimePiece::Seconds(digits) => {
                let _infallible = write!(out, "{:02}.", time.second());
                fraction(nanos, *digits, out);
            }
        }
    }
    true
}

/// The first `digits` (at most 9) digits of the fraction of a second.
fn fraction(nanos: u32, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing to a Vec cannot fail.
    let _infallible = write!(out, "{nanos:09}");
    out.truncate(start + digits);
}

/// RFC 3339 with milliseconds; `Z` is printed for every zone, as Envoy does.
fn write_default(time: &ZonedDateTime, nanos: u32, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _infallible = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        nanos / 1_000_000,
    );
}
