//! The Mersenne Twister of 32 bits: bounded loads shuffle hosts by it, and Envoy's order is to be ours.

const SIZE: usize = 624;
const MIDDLE: usize = 397;

/// Its state; lives on the stack, and only while a host is overloaded.
pub(super) struct Mersenne {
    state: [u32; SIZE],
    next: usize,
}

impl Mersenne {
    /// Seeded by the low half of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        let mut last = u32::try_from(seed & u64::from(u32::MAX)).unwrap_or(0);
        let mut state = [0; SIZE];
        for (index, word) in (0_u32..).zip(&mut state) {
            if index > 0 {
                last = 1_812_433_253_u32
                    .wrapping_mul(last ^ (last >> 30))
                    .wrapping_add(index);
            }
            *word = last;
        }
        Self { state, next: SIZE }
    }

    /// A number below `limit`, which must not be zero.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let limit = limit as u64;
        let step = (1_u64 << 32) / limit;
        loop {
            let number = u64::from(self.word()) / step;
            if number < limit {
                return usize::try_from(number).unwrap_or(0);
            }
        }
    }

    fn word(&mut self) -> u32 {
        if self.next == SIZE {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for index in 0..SIZE {
            let joined =
                (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % SIZE] & 0x7FFF_FFFF);
            let odd = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[index] = self.state[(index + MIDDLE) % SIZE] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_standards_mt19937() {
        // The C++ standard names the 10,000th number of the default seed.
        let mut random = Mersenne::new(5489);
        let last = (0..10_000).map(|_| random.word()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
