//! Fractions of requests (`envoy.type.v3.FractionalPercent`).

/// A fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many: 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// Whether a random number falls into it.
    #[must_use]
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_take_their_share_of_the_numbers() {
        let half = Fraction {
            numerator: 5_000,
            denominator: 10_000,
        };
        let hits = (0..20_000).filter(|n| half.contains(*n)).count();
        assert_eq!(hits, 10_000);
        let none = Fraction {
            numerator: 0,
            denominator: 100,
        };
        assert!((0..1_000).all(|n| !none.contains(n)));
    }
}
