//! A ClientHello as a TLS client sends it first.

/// The bytes, in records of at most `record` bytes.
pub fn client_hello(name: Option<&str>, protocols: &[String], record: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    // supported_versions: TLS 1.3 and 1.2.
    extensions.extend([0, 43, 0, 5, 4, 3, 4, 3, 3]);
    if let Some(name) = name {
        let entry = [&[0][..], &vector(name.as_bytes())].concat();
        extensions.extend([0, 0]);
        extensions.extend(vector(&vector(&entry)));
    }
    if !protocols.is_empty() {
        let mut list = Vec::new();
        for protocol in protocols {
            list.push(u8::try_from(protocol.len()).unwrap_or(u8::MAX));
            list.extend(protocol.as_bytes());
        }
        extensions.extend([0, 16]);
        extensions.extend(vector(&vector(&list)));
    }
    // supported_groups and signature_algorithms, which stacks insist on.
    extensions.extend([0, 10, 0, 4, 0, 2, 0, 29]);
    extensions.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 4, 0x13, 1, 0xc0, 0x2f],
        &[1, 0],
        &vector(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    message
        .chunks(record.max(1))
        .flat_map(|part| [&[22, 3, 1][..], &vector(part)].concat())
        .collect()
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}
