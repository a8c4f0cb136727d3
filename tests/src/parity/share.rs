//! Random choices: counts are compared as draws from one distribution.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::outcome::Chosen;

/// Standard normal quantile of 1 − 10⁻⁶: one false alarm in a million comparisons.
const Z: f64 = 4.753;

/// Whether two runs chose alike.
pub(super) fn same(left: &Chosen, right: &Chosen) -> bool {
    if left.exact {
        return left.counts == right.counts;
    }
    let total = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>() as f64;
    let (left_total, right_total) = (total(&left.counts), total(&right.counts));
    let names: BTreeSet<&String> = left.counts.keys().chain(right.counts.keys()).collect();
    let count =
        |counts: &BTreeMap<String, usize>, name: &str| counts.get(name).copied().unwrap_or(0);
    let mut statistic = 0.0;
    for name in &names {
        let (l, r) = (
            count(&left.counts, name) as f64,
            count(&right.counts, name) as f64,
        );
        let pooled = (l + r) / (left_total + right_total);
        statistic += (l - left_total * pooled).powi(2) / (left_total * pooled);
        statistic += (r - right_total * pooled).powi(2) / (right_total * pooled);
    }
    statistic <= critical(names.len().saturating_sub(1))
}

/// Fails unless the counts fit the shares.
pub(super) fn fits(chosen: &Chosen, share: &BTreeMap<String, f64>) -> Result<()> {
    let total = chosen.counts.values().sum::<usize>() as f64;
    let mut statistic = 0.0;
    for (name, share) in share.iter().filter(|(_, share)| **share > 0.0) {
        let seen = chosen.counts.get(name).copied().unwrap_or(0) as f64;
        statistic += (seen - total * share).powi(2) / (total * share);
    }
    for (name, count) in &chosen.counts {
        let known = share.get(name).is_some_and(|share| *share > 0.0);
        ensure!(known, "{name} was chosen {count} times and should never be");
    }
    let limit = if chosen.exact {
        1e-9
    } else {
        critical(share.len().saturating_sub(1))
    };
    ensure!(
        statistic <= limit,
        "{:?} does not fit {share:?}",
        chosen.counts
    );
    Ok(())
}

/// The chi-square distribution's quantile of 1 − 10⁻⁶ (Wilson and Hilferty's approximation).
fn critical(degrees: usize) -> f64 {
    let degrees = degrees.max(1) as f64;
    let spread = 2.0 / (9.0 * degrees);
    degrees * (1.0 - spread + Z * spread.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(counts: &[(&str, usize)]) -> Chosen {
        let counts = counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        Chosen {
            counts,
            exact: false,
        }
    }

    #[test]
    fn a_likely_draw_is_the_same_and_an_unlikely_one_is_not() {
        assert!(same(
            &chosen(&[("a", 90), ("b", 10)]),
            &chosen(&[("a", 84), ("b", 16)])
        ));
        assert!(!same(
            &chosen(&[("a", 900), ("b", 100)]),
            &chosen(&[("a", 500), ("b", 500)])
        ));
    }

    #[test]
    fn shares_fit_or_not() {
        let share = BTreeMap::from([("a".to_owned(), 0.9), ("b".to_owned(), 0.1)]);
        assert!(fits(&chosen(&[("a", 182), ("b", 18)]), &share).is_ok());
        assert!(fits(&chosen(&[("a", 100), ("b", 100)]), &share).is_err());
        assert!(fits(&chosen(&[("a", 180), ("c", 20)]), &share).is_err());
    }
}
