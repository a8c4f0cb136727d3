//! HTTP/2 frames as bytes, well made or not: for peers that break the protocol.

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PUSH_PROMISE.
pub const PUSH_PROMISE: u8 = 5;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// The flag END_STREAM, and ACK of SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// The flag END_HEADERS.
pub const END_HEADERS: u8 = 4;

/// A frame as it was read.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Reads one; none at the end of the connection, however that came.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload).await.ok()?;
        Some(Self {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            payload,
        })
    }

    /// The error code of RST_STREAM and GOAWAY.
    pub fn error_code(&self) -> Result<u32> {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload.get(at..at + 4).context("no error code")?;
        Ok(u32::from_be_bytes(code.try_into()?))
    }
}

/// Any frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads of tests are small");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// SETTINGS with these identifiers and values.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(name, value)| {
            let name = name.to_be_bytes();
            name.into_iter().chain(value.to_be_bytes())
        })
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// The answer to SETTINGS.
pub fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, END_STREAM, 0, &[])
}

/// HEADERS of stream 1 in one frame.
pub fn headers(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    headers_on(1, flags, fields)
}

/// HEADERS of a stream in one frame.
pub fn headers_on(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// DATA of stream 1.
pub fn data(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, payload)
}

/// RST_STREAM of stream 1.
pub fn reset(code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, 1, &code.to_be_bytes())
}

/// GOAWAY that serves streams up to `last`.
pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.to_be_bytes()];
    frame(GOAWAY, 0, 0, &payload.concat())
}

/// A header block: literals that are not indexed, without Huffman coding.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A header block in as many frames as it takes.
pub fn long_headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    const PIECE: usize = 16_384;
    let count = block.len().div_ceil(PIECE);
    let pieces = block.chunks(PIECE).enumerate();
    pieces
        .flat_map(|(index, piece)| {
            let end = if index + 1 == count { END_HEADERS } else { 0 };
            match index {
                0 => frame(HEADERS, flags | end, stream, piece),
                _ => frame(CONTINUATION, end, stream, piece),
            }
        })
        .collect()
}

/// `:status`, which is the first field of a header block.
pub fn status(block: &[u8]) -> Result<String> {
    // Changes of the table's size may come before.
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20);
    let block = &block[at.context("an empty block")?..];
    let indexed = ["200", "204", "206", "304", "400", "404", "500"];
    let [first, length, text @ ..] = block else {
        return Ok(indexed[usize::from(block[0] & 0x7f) - 8].to_owned());
    };
    if first & 0x80 != 0 {
        let index = usize::from(first & 0x7f).checked_sub(8);
        let known = index.and_then(|index| indexed.get(index));
        return Ok((*known.context("not :status")?).to_owned());
    }
    ensure!(first & 0x0f == 8, "not :status");
    let text = &text[..usize::from(length & 0x7f)];
    if length & 0x80 == 0 {
        return Ok(String::from_utf8(text.to_vec())?);
    }
    Ok(digits(text))
}

/// Three digits in the code of RFC 7541: 0 to 2 have five bits, the others six.
fn digits(text: &[u8]) -> String {
    let bits: Vec<u8> = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let number = |bits: &[u8]| {
        bits.iter()
            .fold(0, |number, bit| number << 1 | u32::from(*bit))
    };
    let mut rest = bits.as_slice();
    let mut found = String::new();
    while found.len() < 3 && rest.len() >= 5 {
        let short = number(&rest[..5]);
        let (digit, size) = match short {
            0..=2 => (short, 5),
            _ if rest.len() >= 6 => (number(&rest[..6]).wrapping_sub(0b01_1001) + 3, 6),
            _ => break,
        };
        found.extend(char::from_digit(digit, 10));
        rest = &rest[size..];
    }
    found
}

/// An integer with a prefix of seven bits.
fn length(bytes: &mut Vec<u8>, mut value: usize) {
    if let Ok(small) = u8::try_from(value)
        && small < 127
    {
        bytes.push(small);
        return;
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let written = [go_away(3, 2), headers(END_STREAM, &[(":status", "200")])].concat();
        let mut from = written.as_slice();
        let read = crate::block_on(async {
            let first = Frame::read(&mut from).await;
            (
                first,
                Frame::read(&mut from).await,
                Frame::read(&mut from).await,
            )
        });
        let (Some(first), Some(second), None) = read else {
            panic!("{read:?}");
        };
        assert_eq!((first.kind, first.error_code().unwrap()), (GOAWAY, 2));
        assert_eq!((second.stream, second.flags), (1, END_STREAM | END_HEADERS));
        assert_eq!(second.payload, b"\x00\x07:status\x03200");
    }

    #[test]
    fn lengths_are_as_in_rfc_7541() {
        let encoded = |value| {
            let mut bytes = Vec::new();
            length(&mut bytes, value);
            bytes
        };
        assert_eq!(encoded(126), [126]);
        assert_eq!(encoded(127), [127, 0]);
        assert_eq!(encoded(1337 + 96), [127, 0b1001_1010, 10]);
    }

    #[test]
    fn long_blocks_continue() {
        let block = vec![0; 16_385];
        let bytes = long_headers(1, 0, &block);
        assert_eq!(bytes.len(), block.len() + 2 * 9);
        assert_eq!((bytes[3], bytes[4]), (HEADERS, 0));
        assert_eq!(bytes[9 + 16_384 + 3], CONTINUATION);
        assert_eq!(bytes[9 + 16_384 + 4], END_HEADERS);
    }

    #[test]
    fn statuses_are_read() {
        let read = |block: &[u8]| status(block).unwrap();
        assert_eq!(read(&[0x8c]), "400");
        assert_eq!(read(&[0x20, 0x88, 0x82]), "200");
        assert_eq!(read(b"\x48\x03408"), "408");
        // 011010 011001 00001 and ones to the end.
        assert_eq!(
            read(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]),
            "431"
        );
    }
}
