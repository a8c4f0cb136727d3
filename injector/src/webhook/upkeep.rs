//! Keeps certificates fresh: makes the next in time, has the API server trust it, then takes it into use.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use rustls::{
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{generations::Generation, metrics::Metrics, registration::Registration, store::Store};

/// How often all is looked at, and at least sixty times in a certificate's life.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The certificate that new connections get; open ones keep theirs.
#[derive(Debug, Default)]
pub struct Used(ArcSwapOption<(Generation, Arc<CertifiedKey>)>);

impl Used {
    /// Whether there is one that is good.
    pub fn is_good(&self, now: Timestamp) -> bool {
        let used = self.0.load();
        used.as_ref().is_some_and(|used| used.0.expires > now)
    }
}

impl ResolvesServerCert for Used {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().as_ref()?.1))
    }
}

/// What is kept fresh, and how.
#[derive(Debug)]
pub struct Upkeep {
    /// Where certificates are kept.
    pub store: Store,
    /// Where they have to be trusted, if it is for us to see to that.
    pub registration: Option<Registration>,
    /// Who they speak for.
    pub names: Vec<String>,
    /// How long each is good.
    pub lifetime: SignedDuration,
    /// What makes them work.
    pub provider: Arc<CryptoProvider>,
    /// The one in use.
    pub used: Arc<Used>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Looks after everything, for ever.
    pub async fn run(&self) {
        let (shortest, longest) = INTERVALS;
        let whole = self.lifetime.unsigned_abs();
        let interval = (whole / 60).clamp(shortest, longest);
        let mut last = None;
        loop {
            let problem = self.once().await.err().map(|error| format!("{error:#}"));
            if let Some(problem) = &problem {
                self.metrics.upkeep_failures.fetch_add(1, Ordering::Relaxed);
                if last.as_ref() != Some(problem) {
                    tracing::error!("{problem}");
                }
            } else if last.is_some() {
                tracing::info!("certificates and registration can be looked after again");
            }
            last = problem;
            tokio::time::sleep(interval).await;
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let mut kept = self.store.load().await?;
        // Whoever is faster makes the certificate, the others take it.
        for _ in 0..5 {
            let next = kept.generations.next(&self.names, self.lifetime, now);
            let Some(next) = next.context("making a certificate")? else {
                break;
            };
            if self.store.save(&kept, &next).await? {
                kept.generations = next;
                break;
            }
            kept = self.store.load().await?;
        }
        let trusted = match &self.registration {
            None => Ok(true),
            Some(registration) => registration.trust(&kept.generations.bundle()).await,
        };
        // Who cannot be told of a new authority shall meet the old one as long as it is good.
        if (trusted.is_ok() || !self.used.is_good(now))
            && let Some(generation) = kept.generations.used(now)
        {
            self.take(generation)?;
        }
        trusted.map(drop)
    }

    fn take(&self, generation: &Generation) -> anyhow::Result<()> {
        let used = self.used.0.load();
        if used.as_ref().is_some_and(|used| used.0 == *generation) {
            return Ok(());
        }
        let certified = generation.certified(&self.provider)?;
        let both = (generation.clone(), Arc::new(certified));
        self.used.0.store(Some(Arc::new(both)));
        let expires = generation.expires;
        self.metrics
            .certificate_expiry
            .store(expires.as_second(), Ordering::Relaxed);
        self.metrics
            .certificate_changes
            .fetch_add(1, Ordering::Relaxed);
        tracing::info!("a new certificate is in use; it expires at {expires:.0}");
        Ok(())
    }
}
