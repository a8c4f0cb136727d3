//! The messages of `grpc.health.v1`, in their frames.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// `SERVING`.
pub(crate) const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The body that asks for a service: one message, not compressed, with its length.
pub(crate) fn request(service: &str) -> Bytes {
    let message = HealthRequest {
        service: service.to_owned(),
    };
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

/// The status in the body of an answer, if it is one whole message, not compressed.
pub(crate) fn status(body: &[u8]) -> Option<i32> {
    let message = body.get(5..)?;
    let length: [u8; 4] = body.get(1..5)?.try_into().ok()?;
    let is_whole = body.first() == Some(&0) && u32::from_be_bytes(length) as usize == message.len();
    let response = is_whole.then(|| HealthResponse::decode(message).ok())??;
    Some(response.status)
}
