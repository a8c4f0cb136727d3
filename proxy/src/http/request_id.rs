//! `x-request-id`: UUIDs with Envoy's trace reason in the version's place.

use http::{HeaderMap, HeaderName, HeaderValue};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where the version of a UUID is, which Envoy uses for the trace reason.
const REASON: usize = 14;

/// A new random id; `random` gives 64 bits at a time.
pub fn generate(mut random: impl FnMut() -> u64) -> HeaderValue {
    let id = (u128::from(random()) << 64) | u128::from(random());
    let uuid = uuid::Builder::from_u128(id)
        .with_version(uuid::Version::Random)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    uuid.hyphenated().encode_lower(&mut text);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and hyphens are a header value")
}

/// Makes an external client's id say that it was not traced for a reason.
pub fn clear_trace_reason(headers: &mut HeaderMap) {
    set_trace_reason(headers, b'4');
}

/// Writes a trace reason: `4` none, `9` sampled, `a` forced by a service, `b` by a client.
pub fn set_trace_reason(headers: &mut HeaderMap, reason: u8) {
    let Some(id) = headers.get(X_REQUEST_ID) else {
        return;
    };
    if id.len() != uuid::fmt::Hyphenated::LENGTH || id.as_bytes().get(REASON) == Some(&reason) {
        return;
    }
    let mut text = id.as_bytes().to_vec();
    text[REASON] = reason;
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(X_REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_4_uuids() {
        let id = generate(|| 0x0123_4567_89ab_cdef);
        let uuid = uuid::Uuid::parse_str(id.to_str().unwrap()).unwrap();
        assert_eq!(uuid.get_version_num(), 4);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
    }

    #[test]
    fn the_trace_reason_is_one_digit() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, generate(|| 7));
        set_trace_reason(&mut headers, b'9');
        assert_eq!(headers[X_REQUEST_ID].as_bytes()[REASON], b'9');
        clear_trace_reason(&mut headers);
        assert_eq!(headers[X_REQUEST_ID].as_bytes()[REASON], b'4');
        let odd = HeaderValue::from_static("abc");
        headers.insert(X_REQUEST_ID, odd.clone());
        set_trace_reason(&mut headers, b'9');
        assert_eq!(headers[X_REQUEST_ID], odd);
    }
}
