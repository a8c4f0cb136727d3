//! What Envoy's HTTP/1 codec refuses of a response's head, and hyper lets through.

use http::{HeaderMap, Response, StatusCode, header};

use crate::http::headers::wants_upgrade;

/// Whether it says in one way where its body ends, and stays with the protocol. What a client is told
/// must not depend on which of two framings it believes. `wants_switch`: the request asks for another
/// protocol.
pub(super) fn is_http1<B>(response: &Response<B>, wants_switch: bool) -> bool {
    let headers = response.headers();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return wants_switch && is_switch(headers);
    }
    is_framed(headers)
}

/// Whether the head says which protocol comes next, and nothing of a body.
fn is_switch(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && wants_upgrade(headers)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
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
        proper(status, headers, false)
    }

    fn proper(status: u16, headers: &[(&str, &str)], wants_switch: bool) -> bool {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        is_http1(&response.body(()).unwrap(), wants_switch)
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
        let both = [("upgrade", "websocket"), ("connection", "Upgrade")];
        assert!(!is_proper(101, &both));
        assert!(proper(101, &both, true));
    }

    #[test]
    fn a_switch_says_to_what_and_has_no_body() {
        let [upgrade, connection] = [("upgrade", "websocket"), ("connection", "x, upgrade")];
        assert!(!proper(101, &[upgrade], true));
        assert!(!proper(101, &[connection], true));
        for body in [("content-length", "0"), ("transfer-encoding", "chunked")] {
            assert!(!proper(101, &[upgrade, connection, body], true));
        }
    }
}
