//! The upstreams of one run, and the placeholders that stand for their ports.

use std::net::SocketAddr;

use anyhow::Result;

use super::case::Places;
use crate::upstream::{Received, Refused, Silent, Speaks, TcpHost, Upstream};

/// `a`, `b` and `c`, and the ports where nothing answers.
pub(super) struct Upstreams {
    all: Vec<Upstream>,
    /// Their ports by placeholder.
    pub(super) places: Places,
    _refused: Refused,
    _silent: Option<Silent>,
    _tcp: Vec<TcpHost>,
}

/// Hosts that speak bytes, for cases that name one; each has a cluster of its name.
pub(super) const TCP_HOSTS: [(&str, Speaks); 8] = [
    ("ta", Speaks::Echo),
    ("tb", Speaks::Echo),
    ("first", Speaks::First),
    ("last", Speaks::Last),
    ("closes", Speaks::Closes),
    ("resets", Speaks::Resets),
    ("answers", Speaks::AnswersAndResets),
    ("ends", Speaks::Ends),
];

impl Upstreams {
    /// Starts them; a silent one only for a text that names it.
    pub(super) async fn start(text: &str) -> Result<Self> {
        let mut all = Vec::new();
        let mut places = Places::new();
        let port = |address: SocketAddr| address.port().to_string();
        for name in ["a", "b", "c"] {
            let upstream = Upstream::start(name).await?;
            places.insert(name.to_owned(), port(upstream.address()));
            all.push(upstream);
        }
        let refused = Refused::reserve()?;
        places.insert("refused".to_owned(), port(refused.address()));
        let silent = if text.contains("{{silent}}") {
            Some(Silent::start().await?)
        } else {
            None
        };
        if let Some(silent) = &silent {
            places.insert("silent".to_owned(), port(silent.address()));
        }
        let mut tcp = Vec::new();
        if text.contains("chains:") {
            for (name, speaks) in TCP_HOSTS {
                let host = TcpHost::start(name, speaks).await?;
                places.insert(name.to_owned(), port(host.address()));
                tcp.push(host);
            }
            // Ports that are free now, for listeners whose port the case must know.
            for name in ["port", "port2"] {
                let free = std::net::TcpListener::bind("127.0.0.1:0")?;
                places.insert(name.to_owned(), port(free.local_addr()?));
            }
        }
        // A port number for now: the answer is known only once the case is read.
        places.insert("raw".to_owned(), "1".to_owned());
        Ok(Self {
            all,
            places,
            _refused: refused,
            _silent: silent,
            _tcp: tcp,
        })
    }

    /// What they received since the last call.
    pub(super) fn take_received(&self) -> Vec<Received> {
        self.all.iter().flat_map(Upstream::take_received).collect()
    }

    /// How many requests came and were not taken yet.
    pub(super) fn pending(&self) -> usize {
        self.all.iter().map(Upstream::pending).sum()
    }
}
