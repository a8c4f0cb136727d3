//! Ring hash (ketama): hosts are many times on a ring of hashes; the next one from the request's on is its.

use std::borrow::Cow;

use super::{
    consistent::{Member, TableSize},
    hash::{STD_SEED, murmur2, xxh64},
};
use crate::{config::load_balancing::HashFunction, upstream::Host};

/// The ring: hashes in ascending order with the places of their hosts among the members.
#[derive(Debug)]
pub(super) struct Ring(Vec<(u64, u32)>);

/// Places the members on a ring of at least and at most `range` entries.
pub(super) fn build<'a>(
    members: &'a [Member],
    (minimum, maximum): (u64, u64),
    function: HashFunction,
    key: impl Fn(&'a Host) -> Cow<'a, str>,
) -> (Ring, TableSize) {
    // The least share gets a whole number of entries, unless the ring would be too large.
    let least = members
        .iter()
        .map(|member| member.share)
        .fold(1.0, f64::min);
    let scale = ((least * minimum as f64).ceil() / least).min(maximum as f64);
    let size = scale.ceil() as u64;
    let mut table_size = TableSize {
        size,
        min_per_host: size,
        max_per_host: 0,
    };
    if members.is_empty() {
        table_size.size = 0;
        table_size.min_per_host = 0;
        return (Ring(Vec::new()), table_size);
    }

    let mut ring = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    let mut target = 0.0;
    let mut text = String::new();
    for (place, member) in (0_u32..).zip(members) {
        let key = key(&member.host);
        // Targets run on over the hosts: fractions of an entry are not lost.
        target += scale * member.share;
        let mut number = 0_u64;
        while (ring.len() as f64) < target {
            text.clear();
            text.push_str(&key);
            text.push('_');
            text.push_str(&number.to_string());
            let hash = match function {
                HashFunction::XxHash => xxh64(text.as_bytes(), 0),
                HashFunction::MurmurHash2 => murmur2(text.as_bytes(), STD_SEED),
            };
            ring.push((hash, place));
            number += 1;
        }
        table_size.min_per_host = table_size.min_per_host.min(number);
        table_size.max_per_host = table_size.max_per_host.max(number);
    }
    ring.sort_unstable();
    (Ring(ring), table_size)
}

impl Ring {
    /// The member that follows the hash; later attempts go on along the ring.
    pub(super) fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        let at = self.0.partition_point(|(entry, _)| *entry < hash);
        // Behind the last one the ring begins anew.
        let at = (at % self.0.len().max(1)).checked_add(usize::try_from(attempt).unwrap_or(0))?;
        let (_, place) = self.0.get(at.checked_rem(self.0.len())?)?;
        usize::try_from(*place).ok()
    }
}
