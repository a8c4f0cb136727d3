//! Maglev: a table that hosts fill in turns, each by a permutation of its own.

use std::borrow::Cow;

use super::consistent::{Member, TableSize, two_hashes};
use crate::upstream::Host;

/// Places of hosts among the members, by hash modulo the size.
#[derive(Debug)]
pub(super) struct Maglev(Vec<u32>);

/// Stands for no host.
const FREE: u32 = u32::MAX;

/// One host's way through the table.
struct Walk {
    place: u32,
    offset: u64,
    skip: u64,
    next: u64,
    share: f64,
    target: f64,
    count: u64,
}

/// Fills a table of `size` entries, a prime.
pub(super) fn build<'a>(
    members: &'a [Member],
    size: u64,
    key: impl Fn(&'a Host) -> Cow<'a, str>,
) -> (Maglev, TableSize) {
    let mut table_size = TableSize {
        size: 0,
        min_per_host: 0,
        max_per_host: 0,
    };
    if members.is_empty() {
        return (Maglev(Vec::new()), table_size);
    }
    // Hosts take turns in the order of their keys, whatever order they are known in.
    let mut keys: Vec<(Cow<'_, str>, u32, f64)> = (0_u32..)
        .zip(members)
        .map(|(place, member)| (key(&member.host), place, member.share))
        .collect();
    keys.sort_by(|(a, ..), (b, ..)| a.as_bytes().cmp(b.as_bytes()));
    let mut walks: Vec<Walk> = keys
        .iter()
        .map(|(key, place, share)| {
            let (offset, skip) = two_hashes(key);
            Walk {
                place: *place,
                offset: offset % size,
                skip: skip % (size - 1) + 1,
                next: 0,
                share: *share,
                target: 0.0,
                count: 0,
            }
        })
        .collect();

    let length = usize::try_from(size).unwrap_or(0);
    let mut table = vec![FREE; length];
    let most = members
        .iter()
        .map(|member| member.share)
        .fold(0.0, f64::max);
    let mut left = length;
    let mut turn = 0_u32;
    while left > 0 {
        turn += 1;
        for walk in &mut walks {
            // The heaviest host has every turn, others as many as their share of its.
            if left == 0 || f64::from(turn) * walk.share < walk.target {
                continue;
            }
            walk.target += most;
            loop {
                let at = (walk.offset + walk.skip * walk.next) % size;
                walk.next += 1;
                let entry = &mut table[usize::try_from(at).unwrap_or(0)];
                if *entry == FREE {
                    *entry = walk.place;
                    break;
                }
            }
            walk.count += 1;
            left -= 1;
        }
    }
    let counts = walks.iter().map(|walk| walk.count);
    table_size.size = size;
    table_size.min_per_host = counts.clone().min().unwrap_or(0);
    table_size.max_per_host = counts.max().unwrap_or(0);
    (Maglev(table), table_size)
}

impl Maglev {
    /// The member of the hash; later attempts change most of its bits.
    pub(super) fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = match attempt {
            0 => hash,
            attempt => hash ^ (u64::MAX - u64::from(attempt) + 1),
        };
        let at = hash.checked_rem(self.0.len() as u64)?;
        let place = self.0.get(usize::try_from(at).ok()?)?;
        usize::try_from(*place).ok()
    }
}
