//! How load is shared by priorities, as Envoy does it.

/// Hosts of one priority.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LevelHealth {
    /// Those that count: who is excluded does not.
    pub(super) all: usize,
    /// Every one, excluded or not.
    pub(super) size: usize,
    pub(super) healthy: usize,
    pub(super) degraded: usize,
}

/// A part of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Percent, cumulated.
    pub(super) up_to: u32,
    /// The priority.
    pub(super) level: usize,
    /// Whether its degraded hosts take it.
    pub(super) is_degraded: bool,
}

/// What [`distribute`] finds.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) shares: Vec<Share>,
    /// By priority.
    pub(super) panics: Vec<bool>,
}

/// Each level takes what its health allows, healthy hosts of all levels first, then degraded ones. If the
/// levels together cannot take everything, those whose health is below the panic threshold use all
/// their hosts; if that is every level, they share by size.
pub(super) fn distribute(levels: &[LevelHealth], factor: u32, panic_threshold: u32) -> Load {
    let percent = |part: usize, all: usize| -> u32 {
        let value = (part as u64 * u64::from(factor)).checked_div(all as u64);
        u32::try_from(value.unwrap_or(0).min(100)).unwrap_or(100)
    };
    let healthy: Vec<u32> = levels
        .iter()
        .map(|level| percent(level.healthy, level.all))
        .collect();
    let degraded: Vec<u32> = levels
        .iter()
        .map(|level| percent(level.degraded, level.all))
        .collect();
    let total = healthy.iter().chain(&degraded).sum::<u32>().min(100);

    let panics: Vec<bool> = levels
        .iter()
        .map(|level| total < 100 && is_panicking(level, panic_threshold))
        .collect();
    let shares = if panics.iter().all(|panics| *panics) {
        by_size(levels)
    } else if total == 0 {
        // Nobody is there to take it, and panic is off.
        vec![whole()]
    } else {
        by_health(&healthy, &degraded, total)
    };
    Load { shares, panics }
}

fn is_panicking(level: &LevelHealth, threshold: u32) -> bool {
    let percent = |part: usize| match level.all {
        0 => 0.0,
        all => 100.0 * part as f64 / all as f64,
    };
    percent(level.healthy) + percent(level.degraded) < f64::from(threshold)
}

fn whole() -> Share {
    Share {
        up_to: 100,
        level: 0,
        is_degraded: false,
    }
}

fn by_size(levels: &[LevelHealth]) -> Vec<Share> {
    let all: usize = levels.iter().map(|level| level.size).sum();
    if all == 0 {
        return vec![whole()];
    }
    let loads = levels
        .iter()
        .enumerate()
        .filter(|(_, level)| level.size > 0)
        .map(|(index, level)| {
            let load = u32::try_from(level.size * 100 / all).unwrap_or(100);
            (index, false, load)
        });
    cumulate(loads.collect())
}

fn by_health(healthy: &[u32], degraded: &[u32], total: u32) -> Vec<Share> {
    let mut left = 100;
    let healthy = healthy
        .iter()
        .enumerate()
        .map(|(index, part)| (index, false, *part));
    let degraded = degraded
        .iter()
        .enumerate()
        .map(|(index, part)| (index, true, *part));
    let loads =
        healthy
            .chain(degraded)
            .filter(|(.., part)| *part > 0)
            .map(|(index, is_degraded, part)| {
                let load = (part * 100 / total).min(left);
                left -= load;
                (index, is_degraded, load)
            });
    cumulate(loads.collect())
}

/// Rounding leaves a few percent: they go to the first.
fn cumulate(loads: Vec<(usize, bool, u32)>) -> Vec<Share> {
    let mut up_to = 100 - loads.iter().map(|(.., load)| load).sum::<u32>();
    let shares = loads.into_iter().map(|(level, is_degraded, load)| {
        up_to += load;
        Share {
            up_to,
            level,
            is_degraded,
        }
    });
    let mut shares: Vec<Share> = shares.collect();
    // What takes nothing would only make picks look for a number.
    let mut before = 0;
    shares.retain(|share| std::mem::replace(&mut before, share.up_to) < share.up_to);
    shares
}
