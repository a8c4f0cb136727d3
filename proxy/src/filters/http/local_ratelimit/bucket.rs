//! A token bucket that all workers share: one number.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::Bucket;

/// Moments are counted from here.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The bucket fills continuously. It is held as the moment, in seconds, at which it was or would have
/// been empty: the time since then is what is in it.
#[derive(Debug)]
pub struct TokenBucket {
    empty_at: AtomicU64,
    max_tokens: f64,
    per_second: f64,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(config: Bucket) -> Self {
        let max_tokens = f64::from(config.max_tokens);
        let per_second = f64::from(config.tokens_per_fill) / config.fill_interval.as_secs_f64();
        let empty_at = now() - max_tokens / per_second;
        Self {
            empty_at: AtomicU64::new(empty_at.to_bits()),
            max_tokens,
            per_second,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&self) -> bool {
        self.take_at(now())
    }

    fn take_at(&self, now: f64) -> bool {
        let mut old = self.empty_at.load(Relaxed);
        loop {
            let tokens = self.tokens_at(old, now);
            if tokens < 1.0 {
                return false;
            }
            let next = now - (tokens - 1.0) / self.per_second;
            let swapped =
                self.empty_at
                    .compare_exchange_weak(old, next.to_bits(), Relaxed, Relaxed);
            match swapped {
                Ok(_) => return true,
                Err(other) => old = other,
            }
        }
    }

    fn tokens_at(&self, empty_at: u64, now: f64) -> f64 {
        ((now - f64::from_bits(empty_at)) * self.per_second).clamp(0.0, self.max_tokens)
    }

    /// How many tokens it can hold.
    #[must_use]
    pub fn max(&self) -> u64 {
        whole(self.max_tokens)
    }

    /// How many tokens are in it.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        whole(self.tokens_at(self.empty_at.load(Relaxed), now()))
    }

    /// The time until there is a token.
    #[must_use]
    pub fn next_token(&self) -> Duration {
        let tokens = self.tokens_at(self.empty_at.load(Relaxed), now());
        let missing = (1.0 - tokens).max(0.0);
        Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(Duration::MAX)
    }
}

fn now() -> f64 {
    START.elapsed().as_secs_f64()
}

/// The whole part of a number of tokens, which is never negative and fits 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between zero and what a u32 holds"
)]
fn whole(tokens: f64) -> u64 {
    tokens as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(max_tokens: u32, tokens_per_fill: u32, seconds: u64) -> TokenBucket {
        TokenBucket::new(Bucket {
            max_tokens,
            tokens_per_fill,
            fill_interval: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn tokens_are_taken_and_come_back_with_time() {
        let bucket = bucket(3, 1, 1000);
        let start = now();
        assert_eq!((bucket.max(), bucket.remaining()), (3, 3));
        assert_eq!(bucket.next_token(), Duration::ZERO);
        assert!((0..3).all(|_| bucket.take_at(start)));
        assert!(!bucket.take_at(start));
        assert_eq!(bucket.remaining(), 0);
        assert!(bucket.next_token() > Duration::from_secs(900));
        assert!(!bucket.take_at(start + 990.0));
        assert!(bucket.take_at(start + 1001.0));
        assert!(!bucket.take_at(start + 1001.0));
        // It holds no more than it can, however long it fills.
        assert!((0..3).all(|_| bucket.take_at(start + 1e6)));
        assert!(!bucket.take_at(start + 1e6));
    }

    #[test]
    fn an_empty_bucket_gives_nothing() {
        let bucket = bucket(0, 1, 1);
        assert!(!bucket.take_at(now() + 100.0));
        assert_eq!(bucket.remaining(), 0);
    }

    #[test]
    fn threads_share_the_tokens() {
        let bucket = bucket(1000, 1, 100_000);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..400).filter(|_| bucket.take()).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 1000);
    }
}
