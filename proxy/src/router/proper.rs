//! What Envoy's HTTP/1 codec refuses of a response's head, and hyper lets through.

use http::{HeaderMap, Response, StatusCode, header};

/// Whether it says in one way where its body ends, and stays with the protocol. What a client is told
/// must not depend on which of two framings it believes.
pub(super) fn is_http1<B>(response: &Response<B>) -> bool {
    // No request asks for another protocol.
    response.status() != StatusCode::SWITCHING_PROTOCOLS && is_framed(response.headers())
}

fn is_framed(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(first) = encodings.next() else {
        return true;
    };
    first.as_bytes().eq_ignore_ascii_case(b"chunked")
        && encodings.next().is_none()
        && !headers.contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_proper(status: u16, headers: &[(&str, &str)]) -> bool {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        is_http1(&response.body(()).unwrap())
    }

    #[test]
    fn one_framing_is_proper() {
        assert!(is_proper(200, &[]));
        assert!(is_proper(200, &[("content-length", "5")]));
        assert!(is_proper(200, &[("transfer-encoding", "Chunked")]));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not() {
        let chunked = ("transfer-encoding", "chunked");
        assert!(!is_proper(200, &[chunked, ("content-length", "5")]));
        assert!(!is_proper(200, &[chunked, chunked]));
        assert!(!is_proper(200, &[("transfer-encoding", "gzip, chunked")]));
        assert!(!is_proper(200, &[("transfer-encoding", "gzip")]));
    }

    #[test]
    fn nobody_asked_to_switch() {
        assert!(!is_proper(101, &[("upgrade", "websocket")]));
    }
}
