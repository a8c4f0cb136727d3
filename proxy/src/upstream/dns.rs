//! Finds the hosts of STRICT_DNS clusters: every address of each name is a host.
//!
//! Runs on the main thread. Each name is looked up again after its refresh rate (or its record's TTL); a
//! failed look-up keeps the hosts, an answer without addresses takes them away.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use tokio::{sync::OnceCell, task::JoinHandle};

use super::{Cluster, Inputs, cluster::specs};
use crate::config::cluster::{Discovery, Dns, DnsLookupFamily, EndpointAddress};

/// Never look up more often, whatever a TTL says.
const LEAST_REFRESH: Duration = Duration::from_secs(1);

/// The system's DNS: `/etc/resolv.conf` and `/etc/hosts`.
#[derive(Clone, Default)]
pub struct Resolver {
    families: Arc<Families>,
}

/// A resolver for each way of choosing families, made when first needed.
#[derive(Default)]
struct Families {
    auto: OnceCell<TokioResolver>,
    v4: OnceCell<TokioResolver>,
    v6: OnceCell<TokioResolver>,
    v4_preferred: OnceCell<TokioResolver>,
    all: OnceCell<TokioResolver>,
}

/// One name of a cluster.
struct Target {
    host: Arc<str>,
    port: u16,
    addresses: Vec<IpAddr>,
    next: Instant,
}

/// What a look-up gave: the addresses and how long they hold.
type Answer = Result<(Vec<IpAddr>, Duration), String>;

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// Keeps the hosts of a STRICT_DNS cluster until the cluster is gone; `on_update` is called after
    /// each change and when the first look-ups are over. None for clusters of other kinds.
    pub fn watch(
        &self,
        cluster: &Arc<Cluster>,
        on_update: impl Fn() + Send + 'static,
    ) -> Option<JoinHandle<()>> {
        let Discovery::StrictDns(dns) = &cluster.config.discovery else {
            return None;
        };
        let watch = Watch {
            resolver: self.clone(),
            targets: targets(dns),
            dns: dns.clone(),
            cluster: Arc::downgrade(cluster),
        };
        Some(tokio::spawn(watch.run(on_update)))
    }

    async fn lookup(&self, host: &str, family: DnsLookupFamily) -> Answer {
        let families = &self.families;
        let (cell, strategy) = match family {
            DnsLookupFamily::Auto => (&families.auto, LookupIpStrategy::Ipv6thenIpv4),
            DnsLookupFamily::V4Only => (&families.v4, LookupIpStrategy::Ipv4Only),
            DnsLookupFamily::V6Only => (&families.v6, LookupIpStrategy::Ipv6Only),
            DnsLookupFamily::V4Preferred => {
                (&families.v4_preferred, LookupIpStrategy::Ipv4thenIpv6)
            }
            DnsLookupFamily::All => (&families.all, LookupIpStrategy::Ipv4AndIpv6),
        };
        let resolver = cell.get_or_try_init(|| async { build(strategy) }).await?;
        match resolver.lookup_ip(host).await {
            Ok(found) => {
                let ttl = found
                    .valid_until()
                    .saturating_duration_since(Instant::now());
                Ok((found.iter().collect(), ttl))
            }
            Err(error) if error.is_no_records_found() => Ok((Vec::new(), Duration::ZERO)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A resolver without cache: the refresh rate alone says how old an answer may be.
fn build(strategy: LookupIpStrategy) -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::warn!("no system DNS configuration, only /etc/hosts is used: {error}");
        TokioResolver::builder_with_config(
            ResolverConfig::default(),
            TokioRuntimeProvider::default(),
        )
    });
    let options = builder.options_mut();
    options.ip_strategy = strategy;
    options.cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}

/// The distinct names of a cluster.
fn targets(dns: &Dns) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let endpoints = dns
        .assignment
        .localities
        .iter()
        .flat_map(|locality| &locality.endpoints);
    for endpoint in endpoints {
        if let EndpointAddress::Name { host, port } = &endpoint.address
            && !targets
                .iter()
                .any(|target| target.host == *host && target.port == *port)
        {
            targets.push(Target {
                host: Arc::clone(host),
                port: *port,
                addresses: Vec::new(),
                next: Instant::now(),
            });
        }
    }
    targets
}

struct Watch {
    resolver: Resolver,
    targets: Vec<Target>,
    dns: Dns,
    /// Weak: a removed cluster ends its look-ups.
    cluster: Weak<Cluster>,
}

impl Watch {
    async fn run(mut self, on_update: impl Fn()) {
        loop {
            let now = Instant::now();
            let due: Vec<usize> = (0..self.targets.len())
                .filter(|index| self.targets[*index].next <= now)
                .collect();
            let answers = join_all(due.iter().map(|index| {
                let host = &self.targets[*index].host;
                self.resolver.lookup(host, self.dns.family)
            }))
            .await;
            let Some(cluster) = self.cluster.upgrade() else {
                return;
            };
            for (index, answer) in due.into_iter().zip(answers) {
                self.take(&cluster, index, answer);
            }
            let addresses: HashMap<(&str, u16), &[IpAddr]> = self
                .targets
                .iter()
                .map(|target| ((&*target.host, target.port), &*target.addresses))
                .collect();
            let hosts = specs(&self.dns.assignment, |host, port| {
                let found = addresses.get(&(&**host, port)).copied().unwrap_or_default();
                found
                    .iter()
                    .map(|address| SocketAddr::new(*address, port))
                    .collect()
            });
            let before = (cluster.hosts.load().generation, cluster.initialized());
            cluster.set_hosts(&hosts, Inputs::of(&self.dns.assignment));
            if before != (cluster.hosts.load().generation, cluster.initialized()) {
                on_update();
            }
            drop(cluster);
            let Some(next) = self.targets.iter().map(|target| target.next).min() else {
                return;
            };
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// Takes over one answer and says when to ask again.
    fn take(&mut self, cluster: &Cluster, index: usize, answer: Answer) {
        let stats = &cluster.stats;
        let target = &mut self.targets[index];
        let mut refresh = self.dns.refresh_rate;
        stats.update_attempt.inc();
        match answer {
            Ok((mut addresses, ttl)) => {
                stats.update_success.inc();
                if addresses.is_empty() {
                    stats.update_empty.inc();
                } else if self.dns.respect_ttl {
                    refresh = ttl.max(LEAST_REFRESH);
                }
                // Answers come in any order: the same addresses are the same hosts.
                addresses.sort_unstable();
                addresses.dedup();
                target.addresses = addresses;
            }
            Err(reason) => {
                stats.update_failure.inc();
                let (cluster, name) = (&cluster.config.name, &target.host);
                tracing::warn!(%cluster, %name, "look-up failed: {reason}");
            }
        }
        target.next = Instant::now() + refresh;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::{
        config::{cluster::UpstreamProtocol, http_connection_manager::Http1Options},
        upstream::testing,
    };

    fn cluster(names: &[(&str, u16)], family: DnsLookupFamily) -> Arc<Cluster> {
        let any = (SocketAddr::from(([127, 0, 0, 1], 1)), 1);
        let mut assignment = testing::assignment(&vec![any; names.len()]);
        for (endpoint, (host, port)) in assignment.localities[0].endpoints.iter_mut().zip(names) {
            endpoint.address = EndpointAddress::Name {
                host: Arc::from(*host),
                port: *port,
            };
        }
        let mut config = testing::config(&[], UpstreamProtocol::Http1(Http1Options::default()));
        config.discovery = Discovery::StrictDns(Dns {
            assignment,
            refresh_rate: Duration::from_secs(5),
            respect_ttl: false,
            family,
        });
        testing::cluster(config)
    }

    #[tokio::test]
    async fn names_become_hosts() {
        let cluster = cluster(
            &[("127.0.0.1", 80), ("127.0.0.2", 81), ("::1", 82)],
            DnsLookupFamily::All,
        );
        assert!(!cluster.initialized());
        let updates = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&updates);
        let watch = Resolver::default().watch(&cluster, move || {
            seen.fetch_add(1, Relaxed);
        });
        cluster.wait_initialized().await;
        let set = cluster.hosts.load_full();
        let hosts: Vec<(String, &str)> = set
            .hosts
            .iter()
            .map(|host| (host.address.to_string(), &*host.hostname))
            .collect();
        assert_eq!(
            hosts,
            [
                ("127.0.0.1:80".to_owned(), "127.0.0.1"),
                ("127.0.0.2:81".to_owned(), "127.0.0.2"),
                ("[::1]:82".to_owned(), "::1"),
            ]
        );
        assert_eq!(cluster.stats.update_success.value(), 3);
        // The look-ups end with their cluster.
        drop(cluster);
        watch.unwrap().abort();
        assert!(updates.load(Relaxed) <= 1);
    }

    #[tokio::test]
    async fn local_names_come_from_the_hosts_file() {
        let cluster = cluster(&[("localhost", 80)], DnsLookupFamily::V4Only);
        let watch = Resolver::default().watch(&cluster, || {}).unwrap();
        cluster.wait_initialized().await;
        let set = cluster.hosts.load_full();
        assert_eq!(set.hosts[0].address, SocketAddr::from(([127, 0, 0, 1], 80)));
        watch.abort();
    }

    #[test]
    fn answers_change_hosts_and_failures_keep_them() {
        let cluster = cluster(&[("a.example", 80)], DnsLookupFamily::All);
        let Discovery::StrictDns(dns) = &cluster.config.discovery else {
            unreachable!()
        };
        let mut watch = Watch {
            resolver: Resolver::default(),
            targets: targets(dns),
            dns: Dns {
                respect_ttl: true,
                ..dns.clone()
            },
            cluster: Arc::downgrade(&cluster),
        };
        let address = IpAddr::from([10, 0, 0, 1]);
        let start = Instant::now();
        watch.take(
            &cluster,
            0,
            Ok((vec![address, address], Duration::from_secs(60))),
        );
        assert_eq!(watch.targets[0].addresses, [address]);
        assert!(watch.targets[0].next >= start + Duration::from_secs(60));
        watch.take(&cluster, 0, Err("no server".to_owned()));
        assert_eq!(watch.targets[0].addresses, [address]);
        assert!(watch.targets[0].next < Instant::now() + Duration::from_secs(6));
        watch.take(&cluster, 0, Ok((Vec::new(), Duration::ZERO)));
        assert!(watch.targets[0].addresses.is_empty());
        assert_eq!(cluster.stats.update_failure.value(), 1);
        assert_eq!(cluster.stats.update_empty.value(), 1);
    }
}
