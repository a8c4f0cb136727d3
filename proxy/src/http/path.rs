//! Path normalisation as Envoy's connection manager does it: escaped slashes, RFC 3986, slashes merged.

use std::borrow::Cow;

use crate::config::http_connection_manager::{EscapedSlashes, HttpConnectionManager};

/// What becomes of a request target.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normalized {
    /// Nothing to change.
    Same,
    /// Another path and query.
    Changed(String),
    /// The client is sent there (307).
    Redirect(String),
    /// 400; the path as logs have it, if it is another one.
    Rejected(Option<String>),
}

/// Applies what the connection manager is configured to do to a path with query.
#[must_use]
pub(super) fn normalize(target: &str, config: &HttpConnectionManager) -> Normalized {
    if !config.normalize_path
        && !config.merge_slashes
        && config.escaped_slashes == EscapedSlashes::KeepUnchanged
    {
        return Normalized::Same;
    }
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut path = Cow::Borrowed(path);
    let mut is_redirect = false;
    if config.escaped_slashes != EscapedSlashes::KeepUnchanged && has_escaped_slash(&path) {
        match config.escaped_slashes {
            EscapedSlashes::RejectRequest => {
                let unescaped = format!("{}{query}", unescape_slashes(&path));
                return Normalized::Rejected(Some(unescaped));
            }
            EscapedSlashes::UnescapeAndRedirect => is_redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::KeepUnchanged => {}
        }
        path = Cow::Owned(unescape_slashes(&path));
    }
    if config.normalize_path {
        match canonical(&path) {
            Some(canonical) => path = Cow::Owned(canonical),
            None => return Normalized::Rejected(None),
        }
    }
    if config.merge_slashes && path.contains("//") {
        path = Cow::Owned(merge_slashes(&path));
    }
    let changed = format!("{path}{query}");
    match (is_redirect, changed == target) {
        (true, _) => Normalized::Redirect(changed),
        (false, true) => Normalized::Same,
        (false, false) => Normalized::Changed(changed),
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes()
        .windows(3)
        .any(|part| escaped_slash(part).is_some())
}

fn escaped_slash(part: &[u8]) -> Option<char> {
    match part {
        [b'%', b'2', b'f' | b'F', ..] => Some('/'),
        [b'%', b'5', b'c' | b'C', ..] => Some('\\'),
        _ => None,
    }
}

fn unescape_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let skip = match escaped_slash(rest.as_bytes()) {
            Some(slash) => {
                out.push(slash);
                3
            }
            None => {
                out.push(next);
                next.len_utf8()
            }
        };
        rest = rest.get(skip..).unwrap_or("");
    }
    out
}

/// The canonical form of a path as URL libraries of browsers (and Envoy) have it: dot segments
/// removed, `\` as `/`, needless escapes undone, what must be escaped escaped. None for an escaped NUL.
fn canonical(path: &str) -> Option<String> {
    let mut segments: Vec<String> = Vec::new();
    let mut parts = path.split(['/', '\\']).peekable();
    // Before the first slash there is nothing.
    parts.next();
    while let Some(part) = parts.next() {
        let part = canonical_segment(part)?;
        let is_last = parts.peek().is_none();
        match part.as_str() {
            "." => {
                if is_last {
                    segments.push(String::new());
                }
            }
            ".." => {
                segments.pop();
                if is_last {
                    segments.push(String::new());
                }
            }
            _ => segments.push(part),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in segments {
        out.push('/');
        out.push_str(&segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    Some(out)
}

fn canonical_segment(segment: &str) -> Option<String> {
    let bytes = segment.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte == b'%' {
            let escaped = bytes.get(at..at + 2).and_then(decode);
            match escaped {
                Some(0) => return None,
                Some(value)
                    if value.is_ascii_alphanumeric()
                        || matches!(value, b'-' | b'.' | b'_' | b'~') =>
                {
                    out.push(char::from(value));
                    at += 2;
                }
                _ => out.push('%'),
            }
        } else if must_escape(byte) {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        } else {
            out.push(char::from(byte));
        }
    }
    Some(out)
}

fn decode(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    Some(digit(*digits.first()?)? << 4 | digit(*digits.get(1)?)?)
}

fn must_escape(byte: u8) -> bool {
    byte <= b' '
        || byte >= 0x7f
        || matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'|' | b'}' | b'^')
}

/// As Envoy: all segments joined by one slash, a slash at the end kept (so that `//` stays `//`).
fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    if path.starts_with('/') {
        out.push('/');
    }
    for (index, segment) in path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .enumerate()
    {
        if index > 0 {
            out.push('/');
        }
        out.push_str(segment);
    }
    if path.ends_with('/') {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy 1.40 made of these, run with all three options on.
    #[test]
    fn paths_come_out_as_envoys() {
        for (path, expected) in [
            ("/%41%7e%2d%20%3f%23", "/A~-%20%3f%23"),
            ("/a\\b", "/a/b"),
            ("/a//../b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/%2E", "/"),
            ("/a|b\"c<d>`{}^[]", "/a%7Cb%22c%3Cd%3E%60%7B%7D%5E[]"),
            ("/a/../../b", "/b"),
            ("/a%", "/a%"),
            ("/a%4", "/a%4"),
            ("//", "//"),
            ("///a", "/a"),
            ("/a/b/%2e", "/a/b/"),
            ("/a%c3%a4", "/a%c3%a4"),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ] {
            let mut out = canonical(path).unwrap();
            if out.contains("//") {
                out = merge_slashes(&out);
            }
            assert_eq!(out, expected, "{path}");
        }
        assert_eq!(canonical("/a%00b"), None);
    }

    #[test]
    fn escaped_slashes_are_found_and_undone() {
        assert!(has_escaped_slash("/a%2Fb"));
        assert!(!has_escaped_slash("/a%2"));
        assert_eq!(unescape_slashes("/%2f%2Fä/%5c"), "///ä/\\");
    }
}
