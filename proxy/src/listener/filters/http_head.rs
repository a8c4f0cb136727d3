//! Whether the first bytes of a connection are HTTP's.

/// Request lines that are longer are none.
pub const LONGEST: usize = 64 * 1024;

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Methods that are longer are none.
const LONGEST_METHOD: usize = 64;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Not clear yet.
    More,
    /// Something else.
    NotHttp,
    /// A request of HTTP/1.0.
    Http10,
    /// A request of HTTP/1.1.
    Http11,
    /// The preface of HTTP/2.
    Http2,
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Head {
    if bytes.starts_with(PREFACE) {
        return Head::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Head::More;
    }
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let line = match end {
        Some(end) => bytes.get(..end).unwrap_or_default(),
        None => bytes,
    };
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_method = method.len() <= LONGEST_METHOD && method.iter().copied().all(is_token);
    if !is_method || line.first() == Some(&b' ') {
        return Head::NotHttp;
    }
    if end.is_none() {
        return Head::More;
    }
    let fields = line.split(|byte| *byte == b' ');
    let mut fields = fields.filter(|field| !field.is_empty()).skip(1);
    let (target, version) = (fields.next().unwrap_or_default(), fields.next());
    let is_target = matches!(target.first(), Some(b'/' | b'*'))
        || method == b"CONNECT"
        || target.windows(3).any(|window| window == b"://");
    if !is_target || fields.next().is_some() {
        return Head::NotHttp;
    }
    // As Envoy's parser: what is not 1.1 is older, and so is what has no version.
    match version {
        None => Head::Http10,
        Some(b"HTTP/1.1") => Head::Http11,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Head::Http10
        }
        Some(_) => Head::NotHttp,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_known_by_their_first_line() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nhost: a\r\n"[..], Head::Http11),
            (b"GET / HTTP/1.0\n", Head::Http10),
            (b"GET / HTTP/1.1", Head::More),
            (b"G", Head::More),
            (b"", Head::More),
            (PREFACE, Head::Http2),
            (b"PRI * HTTP/2.0\r\n", Head::More),
            (b"PRI * HTTP/2.0\r\nx", Head::Http10),
            (b"GET /\r\n", Head::Http10),
            (b"something else\n", Head::NotHttp),
            (b"GET  / HTTP/1.1\r\n", Head::Http11),
            (b"GET / HTTP/1.1 x\r\n", Head::NotHttp),
            (b"GET / HTTP/0.9\r\n", Head::Http10),
            (b"\x16\x03\x01", Head::NotHttp),
            (b"\r\nGET / HTTP/1.1\r\n", Head::NotHttp),
            (b" / HTTP/1.1\r\n", Head::NotHttp),
        ] {
            assert_eq!(parse(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        /// What is clear stays so, whatever comes after.
        #[test]
        fn more_bytes_change_no_verdict(
            bytes in prop::collection::vec(prop::sample::select(&b"GPRI */HT1.0\r\nS "[..]), 0..40),
            at in 0_usize..40,
        ) {
            let part = parse(&bytes[..at.min(bytes.len())]);
            if part != Head::More {
                prop_assert_eq!(parse(&bytes), part);
            }
        }
    }
}
