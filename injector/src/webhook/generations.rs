//! The certificates of the webhook: which there are, and when which is used. Pure but for the random numbers
//! of a new one; the time comes in.
//!
//! Each generation has an authority of its own that signs one certificate and is then forgotten: its key is
//! kept nowhere. A new generation is made when two thirds of the last one's time have passed, and used from
//! the middle of what is left, so that whoever has to trust it has had time to hear of it, and the old one is
//! still good where it is in use yet.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};

/// The clocks of those who check a certificate may be late.
const EARLIER: SignedDuration = SignedDuration::from_mins(5);

/// One authority with the certificate that it has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generation {
    /// Who it speaks for: DNS names and addresses.
    pub names: Vec<String>,
    /// When it was made.
    pub made: Timestamp,
    /// From when on it is used.
    pub used_from: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// The authority's certificate, as PEM.
    pub authority: String,
    /// The certificate, as PEM.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: String,
}

/// All that are still good, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generations(pub Vec<Generation>);

impl Generations {
    /// What there should be from now on; `None` if that is what there is.
    ///
    /// # Errors
    /// When no certificate can be made of the names.
    pub fn next(
        &self,
        names: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> anyhow::Result<Option<Self>> {
        let good = self.0.iter().filter(|one| one.expires > now);
        let mut next = Self(good.cloned().collect());
        let used_from = match next.0.last() {
            Some(last) if last.names != names => Some(now),
            Some(last) => {
                let left = last.expires.duration_since(now);
                let whole = last.expires.duration_since(last.made);
                (left < whole / 3).then(|| now + left / 2)
            }
            None => Some(now),
        };
        if let Some(used_from) = used_from {
            next.0
                .push(Generation::make(names, lifetime, now, used_from)?);
        }
        Ok((next != *self).then_some(next))
    }

    /// The one to use.
    pub fn used(&self, now: Timestamp) -> Option<&Generation> {
        let good = self.0.iter().filter(|one| one.expires > now);
        good.rev().find(|one| one.used_from <= now)
    }

    /// The authorities to trust, as PEM: also those whose certificates come next or may be in use yet.
    pub fn bundle(&self) -> String {
        self.0.iter().map(|one| one.authority.as_str()).collect()
    }
}

impl Generation {
    fn make(
        names: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
        used_from: Timestamp,
    ) -> anyhow::Result<Self> {
        let expires = now.checked_add(lifetime).context("the lifetime")?;
        let begins = now.checked_sub(EARLIER).context("the lifetime")?;
        let params = |names: &[String], name: &str| {
            let mut params = CertificateParams::new(names)?;
            params.not_before = system_time(begins).into();
            params.not_after = system_time(expires).into();
            params.distinguished_name.push(DnType::CommonName, name);
            anyhow::Ok(params)
        };

        // No two have the same name, so that whoever trusts several knows which to look at.
        let mut authority = params(&[], &format!("outrigger injector {now:.0}"))?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let mut server = params(names, "outrigger injector")?;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &issuer)?;
        Ok(Self {
            names: names.to_vec(),
            made: now,
            used_from,
            expires,
            authority: authority_pem,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// What TLS needs of it.
    ///
    /// # Errors
    /// When the stored text is damaged.
    pub fn certified(&self, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .context("the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("the key")?;
        Ok(CertifiedKey::from_der(vec![certificate], key, provider)?)
    }
}

/// Certificates know whole seconds.
fn system_time(time: Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.as_second()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: SignedDuration = SignedDuration::from_hours(24);

    fn names() -> Vec<String> {
        vec!["injector.mesh.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1_000_000 + hours)
    }

    fn next(of: &Generations, hours: i64) -> Option<Generations> {
        of.next(&names(), LIFETIME, at(hours)).unwrap()
    }

    #[test]
    fn the_next_is_trusted_before_it_is_used_and_the_last_until_it_expires() {
        let first = next(&Generations::default(), 0).unwrap();
        assert_eq!(first.0.len(), 1);
        let used = first.used(at(0)).unwrap();
        assert_eq!((used.used_from, used.expires), (at(0), at(24)));
        assert_eq!(next(&first, 15), None);

        let both = next(&first, 18).unwrap();
        assert_eq!(both.0.len(), 2);
        assert_eq!(both.0[0], first.0[0]);
        assert_eq!((both.0[1].used_from, both.0[1].expires), (at(21), at(42)));
        assert_eq!(both.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(both.used(at(20)), Some(&both.0[0]));
        assert_eq!(both.used(at(21)), Some(&both.0[1]));
        assert_eq!(next(&both, 23), None);

        let last = next(&both, 24).unwrap();
        assert_eq!(last.0, both.0[1..]);
        assert_eq!(last.used(at(24)), Some(&both.0[1]));
    }

    #[test]
    fn what_expired_while_nobody_looked_is_made_anew_at_once() {
        let first = next(&Generations::default(), 0).unwrap();
        let anew = next(&first, 30).unwrap();
        assert_eq!(anew.0.len(), 1);
        assert_eq!(anew.used(at(30)), Some(&anew.0[0]));
        assert_eq!(first.used(at(30)), None);
    }

    #[test]
    fn other_names_are_used_at_once() {
        let first = next(&Generations::default(), 0).unwrap();
        let others = vec!["other.mesh.svc".to_owned()];
        let both = first.next(&others, LIFETIME, at(1)).unwrap().unwrap();
        assert_eq!(both.used(at(1)), Some(&both.0[1]));
        assert_eq!(both.next(&others, LIFETIME, at(1)).unwrap(), None);
    }

    #[test]
    fn what_is_written_can_be_read_and_used() {
        let first = next(&Generations::default(), 0).unwrap();
        let text = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Generations>(&text).unwrap(), first);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        first.0[0].certified(&provider).unwrap();
        let mut damaged = first.0[0].clone();
        damaged.key = damaged.certificate.clone();
        assert!(damaged.certified(&provider).is_err());
    }
}
