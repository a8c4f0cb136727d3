//! A Service: one address before several replicas, of which only those are given connections that say that
//! they are ready. What kube-proxy and the kubelet do in a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::RwLock;

use crate::client;

/// How often readiness is asked for: far below the time for which a stopping replica still answers.
const INTERVAL: Duration = Duration::from_millis(20);

/// A running Service; it ends with the runtime.
#[derive(Clone, Debug)]
pub struct Service {
    replicas: Arc<RwLock<Vec<Replica>>>,
}

#[derive(Clone, Copy, Debug)]
struct Replica {
    webhook: SocketAddr,
    metrics: SocketAddr,
    is_ready: bool,
}

impl Service {
    /// Opens its address.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| address.to_string())?;
        let service = Self {
            replicas: Arc::default(),
        };
        let (asking, giving) = (service.clone(), service.clone());
        tokio::spawn(async move {
            loop {
                asking.ask().await;
                tokio::time::sleep(INTERVAL).await;
            }
        });
        tokio::spawn(async move {
            let turn = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let target = giving.pick(turn.fetch_add(1, Ordering::Relaxed)).await;
                // Without one the connection ends, as one to an address without endpoints does.
                let Some(target) = target else { continue };
                tokio::spawn(relay(stream, target));
            }
        });
        Ok(service)
    }

    /// Adds a replica by its webhook's address and that of its readiness.
    pub async fn add(&self, webhook: SocketAddr, metrics: SocketAddr) {
        self.replicas.write().await.push(Replica {
            webhook,
            metrics,
            is_ready: false,
        });
        self.ask().await;
    }

    /// How many are ready.
    pub async fn ready(&self) -> usize {
        let replicas = self.replicas.read().await;
        replicas.iter().filter(|one| one.is_ready).count()
    }

    async fn pick(&self, turn: usize) -> Option<SocketAddr> {
        let replicas = self.replicas.read().await;
        let ready: Vec<_> = replicas.iter().filter(|one| one.is_ready).collect();
        let count = ready.len().max(1);
        ready.get(turn % count).map(|one| one.webhook)
    }

    async fn ask(&self) {
        let replicas = self.replicas.read().await.clone();
        for replica in replicas {
            let reply = client::get(replica.metrics, "/readyz").await;
            let is_ready = reply.is_ok_and(|reply| reply.status == 200);
            let mut replicas = self.replicas.write().await;
            for one in replicas.iter_mut() {
                if one.metrics == replica.metrics {
                    one.is_ready = is_ready;
                }
            }
        }
    }
}

async fn relay(mut stream: TcpStream, target: SocketAddr) {
    if let Ok(mut other) = TcpStream::connect(target).await {
        // Either end may break off at any time.
        _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
    }
}
