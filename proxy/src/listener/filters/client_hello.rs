//! The ClientHello of TLS, as far as the choice of a filter chain needs it: the server's name and the
//! protocols on offer. Never trusts a length that the client says.

/// What the framing of records adds to a ClientHello, with room to spare.
pub const FRAMING: usize = 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// What one record carries at most.
const LONGEST_RECORD: usize = 16 * 1024;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
const LONGEST_NAME: usize = 255;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Not clear yet.
    More,
    /// No ClientHello, or one that makes no sense.
    NotTls,
    /// Longer than it may be.
    TooLarge,
    /// A whole ClientHello.
    Found(ClientHello),
}

/// What a client says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case.
    pub server_name: Option<Box<str>>,
    /// By preference.
    pub protocols: Vec<Box<str>>,
}

/// Looks at the first bytes of a connection. `max` is the longest message.
#[must_use]
pub fn parse(bytes: &[u8], max: usize) -> Hello {
    let mut records = bytes;
    // Of several records the message is put together; of one it is looked at where it is.
    let mut joined: Vec<u8> = Vec::new();
    let mut is_first = true;
    loop {
        let header = match record_header(records) {
            Ok(Some(header)) => header,
            Ok(None) => return Hello::More,
            Err(()) => return Hello::NotTls,
        };
        let body = records.get(5..).unwrap_or_default();
        let fragment = body.get(..header.min(body.len())).unwrap_or_default();
        let is_whole = body.len() >= header;
        let message = if is_first {
            fragment
        } else {
            joined.extend_from_slice(fragment);
            &joined
        };
        match message_length(message) {
            Err(()) => return Hello::NotTls,
            Ok(Some(length)) if length > max => return Hello::TooLarge,
            Ok(Some(length)) => {
                if let Some(body) = message.get(4..4 + length) {
                    return client_hello(body).map_or(Hello::NotTls, Hello::Found);
                }
            }
            Ok(None) => {}
        }
        if !is_whole {
            return Hello::More;
        }
        if is_first {
            joined = fragment.to_vec();
            is_first = false;
        }
        records = body.get(header..).unwrap_or_default();
    }
}

/// The length of the record that begins here, once its header is there.
fn record_header(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let is_handshake = bytes.first().is_none_or(|kind| *kind == HANDSHAKE);
    let is_version = bytes.get(1).is_none_or(|major| *major == 3);
    if !is_handshake || !is_version {
        return Err(());
    }
    let Some([_, _, _, high, low]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    match length {
        1..=LONGEST_RECORD => Ok(Some(length)),
        _ => Err(()),
    }
}

/// The length of the handshake message that begins here, once that is known.
fn message_length(message: &[u8]) -> Result<Option<usize>, ()> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(());
    }
    Ok(message.first_chunk().map(|[_, high, middle, low]| {
        usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low)
    }))
}

fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    let _version_and_random = reader.take(2 + 32)?;
    let session = reader.vector8()?;
    let ciphers = reader.vector16()?;
    let compressions = reader.vector8()?;
    let is_sound = session.0.len() <= 32
        && !ciphers.0.is_empty()
        && ciphers.0.len() % 2 == 0
        && !compressions.0.is_empty();
    if !is_sound {
        return None;
    }
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = reader.vector16()?;
    if !reader.0.is_empty() {
        return None;
    }
    let mut seen: Vec<u16> = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        if seen.contains(&kind) {
            return None;
        }
        match kind {
            SERVER_NAME => {
                seen.push(kind);
                hello.server_name = Some(server_name(data)?);
            }
            ALPN => {
                seen.push(kind);
                hello.protocols = protocols(data)?;
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut data: Reader<'_>) -> Option<Box<str>> {
    let mut names = data.vector16()?;
    let kind = names.take(1)?;
    let name = names.vector16()?.0;
    // There is one kind of name, and one of each.
    let is_sound = kind == [HOST_NAME]
        && names.0.is_empty()
        && data.0.is_empty()
        && (1..=LONGEST_NAME).contains(&name.len())
        && !name.contains(&0);
    let name = std::str::from_utf8(name).ok().filter(|_| is_sound)?;
    Some(name.to_ascii_lowercase().into())
}

fn protocols(mut data: Reader<'_>) -> Option<Vec<Box<str>>> {
    let mut list = data.vector16()?;
    if list.0.is_empty() || !data.0.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?.0;
        if name.is_empty() {
            return None;
        }
        found.push(String::from_utf8_lossy(name).into());
    }
    Some(found)
}

/// What is left to be read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes(*bytes.first_chunk()?))
    }

    /// What has its length in a byte before it.
    fn vector8(&mut self) -> Option<Self> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length)).map(Reader)
    }

    /// What has its length in two bytes before it.
    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Reader)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap();
        [&length.to_be_bytes()[..], bytes].concat()
    }

    /// A ClientHello in records of `size` bytes.
    pub(crate) fn hello(name: Option<&str>, protocols: &[&str], size: usize) -> Vec<u8> {
        let mut extensions = vec![0x2b, 0x2b, 0, 0];
        if let Some(name) = name {
            let entry = [&[0][..], &vector16(name.as_bytes())].concat();
            extensions.extend([0, 0]);
            extensions.extend(vector16(&vector16(&entry)));
        }
        if !protocols.is_empty() {
            let list: Vec<u8> = protocols
                .iter()
                .flat_map(|name| [&[name.len() as u8][..], name.as_bytes()].concat())
                .collect();
            extensions.extend([0, 16]);
            extensions.extend(vector16(&vector16(&list)));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &[0, 2, 0x13, 1],
            &[1, 0],
            &vector16(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1], &length[1..], &body].concat();
        let records = message.chunks(size);
        records
            .flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat())
            .collect()
    }

    fn found(name: Option<&str>, protocols: &[&str]) -> Hello {
        Hello::Found(ClientHello {
            server_name: name.map(Into::into),
            protocols: protocols.iter().map(|name| (*name).into()).collect(),
        })
    }

    #[test]
    fn names_and_protocols_are_found_in_any_number_of_records() {
        for size in [1, 3, 50, 5000] {
            let bytes = hello(Some("A.Example.com"), &["h2", "http/1.1"], size);
            let expected = found(Some("a.example.com"), &["h2", "http/1.1"]);
            assert_eq!(parse(&bytes, 16384), expected);
            assert_eq!(parse(&hello(None, &[], size), 16384), found(None, &[]));
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end], 16384), Hello::More, "{end} of {size}");
            }
        }
    }

    #[test]
    fn what_is_no_client_hello_is_told_at_once() {
        assert_eq!(parse(b"G", 16384), Hello::NotTls);
        assert_eq!(parse(&[22, 2], 16384), Hello::NotTls);
        assert_eq!(parse(&[22, 3, 1, 0, 0], 16384), Hello::NotTls);
        assert_eq!(parse(&[22, 3, 1, 0xff, 0xff], 16384), Hello::NotTls);
        assert_eq!(parse(&[22, 3, 1, 0, 1, 2], 16384), Hello::NotTls);
        let large = [22, 3, 1, 0, 4, 1, 1, 0, 0];
        assert_eq!(parse(&large, 16384), Hello::TooLarge);
        for name in ["", "a\0b"] {
            assert_eq!(parse(&hello(Some(name), &[], 5000), 16384), Hello::NotTls);
        }
        assert_eq!(parse(&hello(None, &[""], 5000), 16384), Hello::NotTls);
    }

    proptest! {
        /// Whatever comes: no panic, and a verdict that stays.
        #[test]
        fn changed_bytes_are_judged_once(
            size in 1_usize..300,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = hello(Some("a.example.com"), &["h2"], size);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let part = parse(&bytes[..end.index(bytes.len())], 16384);
            if part != Hello::More {
                prop_assert_eq!(parse(&bytes, 16384), part);
            }
        }

        #[test]
        fn anything_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0_usize..20_000) {
            let _verdict = parse(&[&[22, 3, 1][..], &bytes].concat(), max);
        }
    }
}
