//! Applies the checks of one field to one value; the reasons read like Envoy's.

use std::ops::Bound;

use crate::schema::{
    table::{Check, Rules},
    wire::Scalar,
};

/// Calls `fail` with the reason of every check that the value does not pass.
pub(crate) fn scalar(rules: &Rules, value: Scalar<'_>, mut fail: impl FnMut(String)) {
    if rules.ignore_empty && value.is_default() {
        return;
    }
    for check in rules.checks {
        let reason = match value {
            Scalar::Int(number) => int(check, number),
            Scalar::Float(number) => float(check, number),
            Scalar::Bool(value) => boolean(check, value),
            Scalar::Enum(number) => enumeration(check, number),
            Scalar::Text(text) => length(check, text.len() as u64).or_else(|| string(check, text)),
            Scalar::Bytes(bytes) => length(check, bytes.len() as u64),
        };
        if let Some(reason) = reason {
            fail(reason);
        }
    }
}

/// Checks of a duration, in nanoseconds.
pub(crate) fn duration(rules: &Rules, nanos: i128, mut fail: impl FnMut(String)) {
    for check in rules.checks {
        if let Check::Duration(low, high) = check
            && let Some(reason) = range(nanos, *low, *high, &seconds)
        {
            fail(reason);
        }
    }
}

/// Checks of how many items or pairs there are.
pub(crate) fn count(rules: &Rules, count: usize, mut fail: impl FnMut(String)) {
    let count = count as u64;
    if rules.ignore_empty && count == 0 {
        return;
    }
    for check in rules.checks {
        match *check {
            Check::MinItems(min) if count < min => {
                fail(format!("value must contain at least {min} item(s)"));
            }
            Check::MaxItems(max) if count > max => {
                fail(format!("value must contain no more than {max} item(s)"));
            }
            Check::MinPairs(min) if count < min => {
                fail(format!("value must contain at least {min} pair(s)"));
            }
            Check::MaxPairs(max) if count > max => {
                fail(format!("value must contain no more than {max} pair(s)"));
            }
            _ => {}
        }
    }
}

/// Whether no item may occur twice.
pub(crate) fn must_be_unique(rules: &Rules) -> bool {
    rules
        .checks
        .iter()
        .any(|check| matches!(check, Check::Unique))
}

fn int(check: &Check, number: i128) -> Option<String> {
    match check {
        Check::Int(low, high) => range(number, *low, *high, &|number| number.to_string()),
        _ => None,
    }
}

fn float(check: &Check, number: f64) -> Option<String> {
    match check {
        Check::Float(low, high) => range(number, *low, *high, &|number| number.to_string()),
        _ => None,
    }
}

fn boolean(check: &Check, value: bool) -> Option<String> {
    match check {
        Check::Bool(wanted) if value != *wanted => Some(format!("value must equal {wanted}")),
        _ => None,
    }
}

fn enumeration(check: &Check, number: i32) -> Option<String> {
    match check {
        Check::Defined(known) if !known.contains(&number) => Some(format!(
            "value must be one of the defined enum values, got {number}"
        )),
        Check::EnumIn(list) if !list.contains(&number) => {
            Some(format!("value must be in list {list:?}"))
        }
        Check::EnumNotIn(list) if list.contains(&number) => {
            Some(format!("value must not be in list {list:?}"))
        }
        _ => None,
    }
}

fn length(check: &Check, bytes: u64) -> Option<String> {
    match *check {
        Check::MinBytes(min) if bytes < min => {
            Some(format!("value length must be at least {min} bytes"))
        }
        Check::MaxBytes(max) if bytes > max => {
            Some(format!("value length must be at most {max} bytes"))
        }
        _ => None,
    }
}

fn string(check: &Check, text: &str) -> Option<String> {
    let is_fine = match *check {
        Check::MinChars(min) => text.chars().count() as u64 >= min,
        Check::MaxChars(max) => text.chars().count() as u64 <= max,
        Check::Prefix(prefix) => text.starts_with(prefix),
        Check::Suffix(suffix) => text.ends_with(suffix),
        Check::Contains(part) => text.contains(part),
        Check::NotContains(part) => !text.contains(part),
        Check::OneOf(list) => list.contains(&text),
        Check::NoneOf(list) => !list.contains(&text),
        Check::Pattern(pattern) => pattern.matches(text),
        Check::HeaderName => is_header_name(text),
        Check::HeaderValue => text
            .chars()
            .all(|char| char == '\t' || (char >= ' ' && char != '\x7f')),
        Check::LooseHeader => !text.contains(['\0', '\n', '\r']),
        _ => true,
    };
    if is_fine {
        return None;
    }
    Some(match *check {
        Check::MinChars(min) => format!("value length must be at least {min} characters"),
        Check::MaxChars(max) => format!("value length must be at most {max} characters"),
        Check::Prefix(prefix) => format!("value does not have prefix {prefix:?}"),
        Check::Suffix(suffix) => format!("value does not have suffix {suffix:?}"),
        Check::Contains(part) => format!("value does not contain substring {part:?}"),
        Check::NotContains(part) => format!("value contains substring {part:?}"),
        Check::OneOf(list) => format!("value must be in list {list:?}"),
        Check::NoneOf(list) => format!("value must not be in list {list:?}"),
        Check::Pattern(pattern) => {
            format!("value does not match regex pattern {:?}", pattern.text())
        }
        Check::HeaderName => format!("{text:?} is not a valid HTTP header name"),
        Check::HeaderValue => {
            "value has a control character, which no HTTP header may have".to_owned()
        }
        _ => "value must not contain NUL, LF or CR".to_owned(),
    })
}

/// `^:?[0-9a-zA-Z!#$%&'*+-.^_|~\x60]+$`, protoc-gen-validate's HTTP_HEADER_NAME, whose `+-.` is a range.
fn is_header_name(text: &str) -> bool {
    let name = text.strip_prefix(':').unwrap_or(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&byte);
    !name.is_empty() && name.bytes().all(is_allowed)
}

fn range<T: PartialOrd + Copy>(
    value: T,
    low: Bound<T>,
    high: Bound<T>,
    show: &dyn Fn(T) -> String,
) -> Option<String> {
    // Written so that a NaN passes, as in Envoy.
    let is_outside = match low {
        Bound::Included(low) => value < low,
        Bound::Excluded(low) => value <= low,
        Bound::Unbounded => false,
    } || match high {
        Bound::Included(high) => value > high,
        Bound::Excluded(high) => value >= high,
        Bound::Unbounded => false,
    };
    is_outside.then(|| format!("value must be {}", describe(low, high, show)))
}

fn describe<T>(low: Bound<T>, high: Bound<T>, show: &dyn Fn(T) -> String) -> String {
    match (low, high) {
        (Bound::Unbounded, Bound::Unbounded) => "anything".to_owned(),
        (Bound::Included(low), Bound::Unbounded) => {
            format!("greater than or equal to {}", show(low))
        }
        (Bound::Excluded(low), Bound::Unbounded) => format!("greater than {}", show(low)),
        (Bound::Unbounded, Bound::Included(high)) => {
            format!("less than or equal to {}", show(high))
        }
        (Bound::Unbounded, Bound::Excluded(high)) => format!("less than {}", show(high)),
        (low, high) => {
            let (open, low) = match low {
                Bound::Included(low) => ('[', show(low)),
                Bound::Excluded(low) => ('(', show(low)),
                Bound::Unbounded => ('(', String::new()),
            };
            let (close, high) = match high {
                Bound::Included(high) => (']', show(high)),
                Bound::Excluded(high) => (')', show(high)),
                Bound::Unbounded => (')', String::new()),
            };
            format!("inside range {open}{low}, {high}{close}")
        }
    }
}

/// Nanoseconds as protobuf's JSON writes durations.
fn seconds(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}s");
    }
    let digits = format!("{fraction:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}
