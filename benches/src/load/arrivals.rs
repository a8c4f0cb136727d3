//! A Poisson process on a timer fine enough for it: the runtime's own timers tick in milliseconds,
//! which would turn arrivals into bursts.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::unix::pipe::Receiver;

/// Due times, one after the other.
pub(crate) struct Arrivals {
    timer: TimerFd,
    /// The same timer, as something that the runtime can wait for.
    expiry: Receiver,
    random: SmallRng,
    mean: f64,
    next: Instant,
    end: Instant,
}

impl Arrivals {
    /// Arrivals at `rate` per second, for `duration` from now.
    pub(crate) fn new(rate: f64, duration: Duration) -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let expiry = Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        let now = Instant::now();
        Ok(Self {
            timer,
            expiry,
            random: SmallRng::seed_from_u64(1),
            mean: 1.0 / rate,
            next: now,
            end: now + duration,
        })
    }

    /// Waits for the next arrival; gives its due time, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Instant>> {
        let uniform: f64 = self.random.random();
        // The gaps of a Poisson process are exponential.
        self.next += Duration::from_secs_f64(-self.mean * (1.0 - uniform).ln());
        if self.next >= self.end {
            return Ok(None);
        }
        let now = Instant::now();
        if self.next > now {
            self.sleep(self.next - now).await?;
        }
        Ok(Some(self.next))
    }

    async fn sleep(&self, time: Duration) -> Result<()> {
        let once = Expiration::OneShot(TimeSpec::from_duration(time.max(Duration::from_nanos(1))));
        self.timer.set(once, TimerSetTimeFlags::empty())?;
        let mut expirations = [0; 8];
        loop {
            self.expiry.readable().await?;
            match self.expiry.try_read(&mut expirations) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
