//! Who asks: the client behind trusted proxies, and the lists that it is read from and added to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, uri::Scheme};

use super::{Origin, Seen, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use crate::config::http_connection_manager::HttpConnectionManager;

/// The trusted client, if there is one, and whether its address may make the request internal. Sets
/// `x-forwarded-for` and `x-forwarded-proto` on the way.
pub(super) fn find_client(
    headers: &mut HeaderMap,
    config: &HttpConnectionManager,
    origin: &Origin<'_>,
    seen: &Seen,
) -> (Option<SocketAddr>, bool) {
    let hops = config.xff_num_trusted_hops as usize;
    let found = if config.use_remote_address {
        let behind = hops
            .checked_sub(1)
            .and_then(|skip| forwarded_client(headers, skip));
        if !config.skip_xff_append {
            let peer = origin.remote.ip();
            // Only the one address, as in Envoy: others of 127.0.0.0/8 tell more than our own would.
            let is_loopback = peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST;
            let address = if is_loopback {
                origin.own_address
            } else {
                peer
            };
            append_forwarded(headers, address);
        }
        if hops == 0 || !seen.forwarded_proto {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        let client = behind.map_or(origin.remote, |(client, _)| client);
        (Some(client), !seen.forwarded_for)
    } else if seen.forwarded_for {
        match forwarded_client(headers, hops) {
            Some((client, is_single)) => (Some(client), is_single),
            None => (None, false),
        }
    } else {
        (None, false)
    };
    if !config.use_remote_address && !seen.forwarded_proto {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    found
}

/// The address in `x-forwarded-for` that has `skip` others to its right, and whether it is the only
/// one.
fn forwarded_client(headers: &HeaderMap, skip: usize) -> Option<(SocketAddr, bool)> {
    // Several headers of this name count as one list.
    let mut addresses = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .rev_values()
        .flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
    let address = addresses.nth(skip)?.trim_ascii();
    let is_single = skip == 0 && addresses.next().is_none();
    let text = std::str::from_utf8(address).ok()?;
    let ip = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some((SocketAddr::new(ip, 0), is_single))
}

/// Values from the last to the first.
trait RevValues<'a>: Iterator<Item = &'a HeaderValue> + Sized {
    fn rev_values(self) -> std::iter::Rev<smallvec::IntoIter<[&'a HeaderValue; 4]>> {
        self.collect::<smallvec::SmallVec<[_; 4]>>()
            .into_iter()
            .rev()
    }
}

impl<'a, I: Iterator<Item = &'a HeaderValue>> RevValues<'a> for I {}

fn append_forwarded(headers: &mut HeaderMap, address: IpAddr) {
    if let Ok(value) = HeaderValue::try_from(address.to_string()) {
        append(headers, X_FORWARDED_FOR, &value, ",");
    }
}

/// Makes one list header of several.
pub(super) fn join_lines(headers: &mut HeaderMap, name: HeaderName) {
    let mut values = headers.get_all(&name).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(joined) = HeaderValue::try_from(joined) {
        headers.insert(name, joined);
    }
}

/// Appends to a list header, whatever number of headers it is in.
pub(super) fn append(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: &HeaderValue,
    separator: &str,
) {
    let mut joined = Vec::new();
    for old in headers.get_all(&name) {
        if !old.is_empty() {
            joined.extend_from_slice(old.as_bytes());
            joined.extend_from_slice(separator.as_bytes());
        }
    }
    if joined.is_empty() {
        headers.insert(name, value.clone());
    } else {
        joined.extend_from_slice(value.as_bytes());
        if let Ok(joined) = HeaderValue::try_from(joined) {
            headers.insert(name, joined);
        }
    }
}

/// Whether an address is within `internal_address_config`; by default none is.
pub(super) fn is_internal_address(address: IpAddr, config: &HttpConnectionManager) -> bool {
    config
        .internal_cidrs
        .iter()
        .flatten()
        .any(|(network, length)| contains(*network, *length, address))
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32_u32.saturating_sub(length.into());
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .is_none_or(|rest| rest == 0)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128_u32.saturating_sub(length.into());
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .is_none_or(|rest| rest == 0)
        }
        _ => false,
    }
}

/// `:scheme`: what `x-forwarded-proto` says if it is one that HTTP has.
pub(super) fn forwarded_scheme(headers: &HeaderMap) -> Scheme {
    match headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        _ => Scheme::HTTP,
    }
}
