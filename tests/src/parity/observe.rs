//! Runs one case on one proxy and writes down what happened.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::case::{AdminCheck, Case, Protocol, Request};
use super::normalise::Normaliser;
use super::outcome::{Chosen, Observed, Outcome, Reached};
use super::upstreams::Upstreams;
use super::{admin, bootstrap, check_rejected, share};
use crate::client::{self, Http1, Http2, Response, raw};
use crate::proxy::{Kind, Proxy};
use crate::upstream::{RawUpstream, SCRIPT};
use crate::wait;

/// How long the log and the stats may take to catch up.
const SETTLE: Duration = Duration::from_secs(3);

/// How much later than the reply mirrored requests may come.
const MIRRORS: Duration = Duration::from_millis(150);

/// Runs the case; `expected` is what Envoy did, when this is the second run.
pub(super) async fn run(
    kind: Kind,
    text: &str,
    upstreams: &Upstreams,
    expected: Option<&Observed>,
) -> Result<(Observed, Case)> {
    let folder = tempfile::tempdir()?;
    let mut places = upstreams.places.clone();
    places.insert("tmp".to_owned(), folder.path().display().to_string());
    let case = Case::parse(text, &places)?;
    let _raw = match &case.raw_upstream {
        Some(reply) => {
            let raw = RawUpstream::start_with(reply.clone(), case.raw_echo).await?;
            places.insert("raw".to_owned(), raw.address().port().to_string());
            Some(raw)
        }
        None => None,
    };
    let case = Case::parse(text, &places)?;
    for (name, content) in &case.files {
        std::fs::write(folder.path().join(name), content)?;
    }
    let config = bootstrap::build(&case, &places);
    if let Some(says) = &case.reject {
        check_rejected(kind, &config, says).await?;
        return Ok((Observed::default(), case));
    }
    let proxy = Proxy::start_in(kind, &config, folder, &[]).await?;
    let mut run = Run {
        normaliser: Normaliser::new(&places, text),
        addresses: BTreeMap::new(),
        http1: BTreeMap::new(),
        http2: BTreeMap::new(),
        proxy,
        upstreams,
    };
    let observed = run.all(&case, expected).await;
    let observed = observed.with_context(|| format!("{}'s log:\n{}", kind.name(), run.proxy.log()));
    Ok((observed?, case))
}

/// Our proxy must refuse the case's configuration and name what it does not support.
pub(super) async fn check_unsupported(text: &str, says: &[String]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut places = Upstreams::start(text).await?.places;
    places.insert("tmp".to_owned(), folder.path().display().to_string());
    let case = Case::parse(text, &places)?;
    for (name, content) in &case.files {
        std::fs::write(folder.path().join(name), content)?;
    }
    check_rejected(Kind::Outrigger, &bootstrap::build(&case, &places), says).await
}

/// Envoy must do what the case says it does; else the case shows something else than meant.
pub(super) fn check_guards(case: &Case, observed: &Observed) -> Result<()> {
    for (index, (request, outcome)) in case.requests.iter().zip(&observed.requests).enumerate() {
        if let Some(status) = request.status {
            let seen = outcome.status;
            ensure!(
                seen == status,
                "requests[{index}]: status {seen}, not {status}: {outcome:#?}"
            );
        }
        if let Some(to) = &request.to {
            let seen = outcome
                .upstream
                .first()
                .map_or("none", |first| first.upstream.as_str());
            ensure!(
                seen == to,
                "requests[{index}]: went to {seen}, not to {to}: {outcome:#?}"
            );
        }
        if let Some(gives) = &request.gives {
            let seen = outcome.received.as_deref().unwrap_or_default();
            ensure!(
                seen == gives,
                "requests[{index}]: gave {seen:?}, not {gives:?}"
            );
        }
        if let Some(chosen) = &outcome.chosen
            && !request.share.is_empty()
        {
            share::fits(chosen, &request.share).with_context(|| format!("requests[{index}]"))?;
        }
    }
    for (name, value) in &observed.stats {
        ensure!(value.is_some(), "stats: envoy has no {name}");
    }
    Ok(())
}

struct Run<'a> {
    normaliser: Normaliser,
    addresses: BTreeMap<String, SocketAddr>,
    http1: BTreeMap<String, Http1>,
    http2: BTreeMap<String, Http2>,
    proxy: Proxy,
    upstreams: &'a Upstreams,
}

impl Run<'_> {
    async fn all(&mut self, case: &Case, expected: Option<&Observed>) -> Result<Observed> {
        let mut requests = Vec::new();
        let mut background: Vec<(usize, JoinHandle<Result<Response>>)> = Vec::new();
        for (index, request) in case.requests.iter().enumerate() {
            let outcome = self.step(request, index, &mut background).await;
            requests.push(outcome.with_context(|| format!("requests[{index}]"))?);
        }
        for (index, task) in background {
            let response = task.await?.with_context(|| format!("requests[{index}]"))?;
            let upstream = std::mem::take(&mut requests[index].upstream);
            requests[index] = Outcome {
                upstream,
                ..self.normaliser.response(&response)
            };
        }
        self.http1.clear();
        self.http2.clear();
        let mut admin = BTreeMap::new();
        for check in &case.admin {
            let expected = expected.and_then(|expected| expected.admin.get(&check.path));
            admin.insert(check.path.clone(), self.admin(check, expected).await?);
        }
        Ok(Observed {
            requests,
            log: self.log(case).await?,
            stats: self.stats(case, expected).await?,
            admin,
        })
    }

    async fn step(
        &mut self,
        request: &Request,
        index: usize,
        background: &mut Vec<(usize, JoinHandle<Result<Response>>)>,
    ) -> Result<Outcome> {
        if let Some(path) = &request.admin_post {
            let reply = self.proxy.admin_post(path).await?;
            return Ok(Outcome {
                status: reply.status,
                ..Outcome::default()
            });
        }
        if let Some((name, content)) = &request.write {
            let path = self.proxy.folder().join(name);
            let new = path.with_extension("new");
            std::fs::write(&new, content)?;
            std::fs::rename(&new, &path)?;
            return Ok(Outcome::default());
        }
        let mut address = self
            .address(request.listener.as_deref().unwrap_or("main"))
            .await?;
        // A listener of IPv6 may take IPv4 too.
        if request.from.is_some_and(|from| from.is_ipv4()) && address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        if let Some(steps) = &request.tcp {
            return self.tcp(request, steps, address).await;
        }
        if request.repeat.is_some() {
            return self.repeat(request, address).await;
        }
        if request.background {
            background.push((
                index,
                tokio::spawn(send_fresh(message(request)?, request.protocol, address)),
            ));
            wait::until("an upstream to receive it", SETTLE, async || {
                ensure!(self.upstreams.pending() > 0, "nothing received");
                Ok(())
            })
            .await?;
            return Ok(Outcome {
                upstream: self.reached(request),
                ..Outcome::default()
            });
        }
        if let Some(status) = request.until_status {
            wait::until("the change to take effect", SETTLE, async || {
                let seen = self.send(request, address).await?.status;
                self.upstreams.take_received();
                ensure!(seen == status, "status {seen}, not {status}");
                Ok(())
            })
            .await?;
        }
        let start = Instant::now();
        let response = self.send(request, address).await?;
        check_time(request, start.elapsed())?;
        let closed = match (&request.conn, request.closed_after) {
            (Some(conn), true) => Some(self.closed(conn).await),
            _ => None,
        };
        if let Some(count) = request.mirrored {
            wait::until("mirrored requests", SETTLE, async || {
                let seen = self.upstreams.pending();
                ensure!(seen >= count, "{seen} of {count} received");
                Ok(())
            })
            .await?;
            // More than that, and the rest of their bodies, would come now.
            tokio::time::sleep(MIRRORS).await;
        }
        let upstream = self.reached(request);
        Ok(Outcome {
            upstream,
            closed,
            ..self.normaliser.response(&response)
        })
    }

    async fn tcp(
        &self,
        request: &Request,
        steps: &[raw::Step],
        address: SocketAddr,
    ) -> Result<Outcome> {
        let start = Instant::now();
        let limit = Duration::from_secs(10);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut received = None;
        for _ in 0..request.repeat.unwrap_or(1) {
            let bytes = raw::talk_from(request.from, address, steps, limit).await?;
            let text = self.normaliser.bytes(&bytes);
            let name = text.split(':').next().unwrap_or_default().to_owned();
            *counts.entry(name).or_default() += 1;
            received = Some(text);
        }
        check_time(request, start.elapsed())?;
        let chosen = request.repeat.map(|_| Chosen {
            counts,
            exact: request.exact,
        });
        Ok(Outcome {
            received: received.filter(|_| request.repeat.is_none()),
            chosen,
            ..Outcome::default()
        })
    }

    async fn send(&mut self, request: &Request, address: SocketAddr) -> Result<Response> {
        if let Some(steps) = &request.raw {
            let limit = Duration::from_secs(10);
            let received = raw::talk_from(request.from, address, steps, limit).await?;
            return Ok(raw::parse(&received));
        }
        let message = message(request)?;
        let Some(conn) = &request.conn else {
            return send_fresh(message, request.protocol, address).await;
        };
        match request.protocol {
            Protocol::H1 => {
                if !self.http1.contains_key(conn) {
                    self.http1
                        .insert(conn.clone(), Http1::connect(address).await?);
                }
                self.http1
                    .get_mut(conn)
                    .context("just inserted")?
                    .send(message)
                    .await
            }
            Protocol::H2 => {
                if !self.http2.contains_key(conn) {
                    self.http2
                        .insert(conn.clone(), Http2::connect(address).await?);
                }
                self.http2
                    .get_mut(conn)
                    .context("just inserted")?
                    .send(message)
                    .await
            }
        }
    }

    /// Whether the proxy closes the connection soon.
    async fn closed(&self, conn: &str) -> bool {
        wait::until("the close", Duration::from_millis(500), async || {
            let http1 = self.http1.get(conn).is_some_and(Http1::is_closed);
            let http2 = self.http2.get(conn).is_some_and(Http2::is_closed);
            ensure!(http1 || http2, "open");
            Ok(())
        })
        .await
        .is_ok()
    }

    async fn repeat(&self, request: &Request, address: SocketAddr) -> Result<Outcome> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut http1 = Http1::connect(address).await?;
        for _ in 0..request.repeat.unwrap_or(1) {
            let response = http1.send(message(request)?).await?;
            ensure!(response.error.is_none(), "{response:?}");
            let reached = self.upstreams.take_received().pop();
            let name = reached.map_or_else(|| "none".to_owned(), |received| received.upstream);
            *counts.entry(name).or_default() += 1;
        }
        Ok(Outcome {
            chosen: Some(Chosen {
                counts,
                exact: request.exact,
            }),
            ..Outcome::default()
        })
    }

    fn reached(&self, request: &Request) -> Vec<Reached> {
        let received = self.upstreams.take_received();
        let with_connection = request.upstream_connection;
        let mut reached: Vec<Reached> = received
            .iter()
            .map(|one| self.normaliser.received(one, with_connection))
            .collect();
        if request.mirrored.is_some() {
            let key = |one: &Reached| (one.upstream.clone(), one.authority.clone());
            reached.sort_by_key(key);
        }
        reached
    }

    async fn address(&mut self, listener: &str) -> Result<SocketAddr> {
        if let Some(address) = self.addresses.get(listener) {
            return Ok(*address);
        }
        let address = self.proxy.listener(listener).await?;
        self.addresses.insert(listener.to_owned(), address);
        Ok(address)
    }

    /// The access log, once it has as many lines as the case has requests.
    async fn log(&self, case: &Case) -> Result<Vec<Value>> {
        let path = self.proxy.folder().join("access.log");
        let count = |request: &Request| {
            if request.is_traffic() {
                request.repeat.unwrap_or(1)
            } else {
                0
            }
        };
        let expected = case
            .log_lines
            .unwrap_or_else(|| case.requests.iter().map(count).sum());
        if case.bootstrap.is_some() && case.log_lines.is_none() {
            return Ok(Vec::new());
        }
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        let settled = wait::until("the access log", SETTLE, async || {
            let lines = read().lines().count();
            ensure!(lines >= expected, "{lines} of {expected} lines");
            Ok(())
        })
        .await;
        // Too few lines on Envoy is a wrong case; on ours it is a difference to report as such.
        if self.proxy.kind() == Kind::Envoy {
            settled.with_context(read)?;
        }
        if expected == 0 || case.requests.iter().any(|request| request.repeat.is_some()) {
            return Ok(Vec::new());
        }
        Ok(read().lines().map(|line| self.log_line(line)).collect())
    }

    fn log_line(&self, line: &str) -> Value {
        let line = self.normaliser.text(line);
        match serde_json::from_str(&line) {
            Ok(object @ Value::Object(_)) => object,
            _ => Value::String(line),
        }
    }

    /// The named stats; on the second run, waits a little for them to become what Envoy has.
    async fn stats(
        &self,
        case: &Case,
        expected: Option<&Observed>,
    ) -> Result<BTreeMap<String, Option<u64>>> {
        if case.stats.is_empty() {
            return Ok(BTreeMap::new());
        }
        let read = async || -> Result<BTreeMap<String, Option<u64>>> {
            let all = self.proxy.stats().await?;
            Ok(case
                .stats
                .iter()
                .map(|name| (name.clone(), all.get(name).copied()))
                .collect())
        };
        let mut previous = None;
        let settled = wait::until("the stats", Duration::from_secs(2), async || {
            let now = read().await?;
            let done = match expected {
                Some(expected) => now == expected.stats,
                None => previous.as_ref() == Some(&now),
            };
            if previous.is_some() && expected.is_none() && !done {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            previous = Some(now.clone());
            ensure!(done, "still changing");
            Ok(now)
        })
        .await;
        match settled {
            Ok(stats) => Ok(stats),
            Err(_) => read().await,
        }
    }

    async fn admin(&self, check: &AdminCheck, expected: Option<&Value>) -> Result<Value> {
        let read = async || -> Result<Value> {
            let reply = self.proxy.admin_get(&check.path).await?;
            admin::view(check, &reply, &self.normaliser)
        };
        let Some(expected) = expected else {
            return read().await;
        };
        let settled = wait::until(&check.path, Duration::from_secs(1), async || {
            let now = read().await?;
            ensure!(now == *expected, "not yet as on envoy");
            Ok(now)
        })
        .await;
        match settled {
            Ok(view) => Ok(view),
            Err(_) => read().await,
        }
    }
}

fn check_time(request: &Request, took: Duration) -> Result<()> {
    let bounds = request.min_ms.unwrap_or(0)..=request.max_ms.unwrap_or(u64::MAX);
    let millis = u64::try_from(took.as_millis())?;
    ensure!(
        bounds.contains(&millis),
        "took {took:?}, not within {bounds:?} ms"
    );
    Ok(())
}

async fn send_fresh(
    message: client::Request,
    protocol: Protocol,
    address: SocketAddr,
) -> Result<Response> {
    match protocol {
        Protocol::H1 => message.send_h1(address).await,
        Protocol::H2 => message.send_h2(address).await,
    }
}

fn message(request: &Request) -> Result<client::Request> {
    let path = request
        .get
        .as_deref()
        .or(request.path.as_deref())
        .unwrap_or("/");
    let mut message = client::Request::new(request.method.as_deref().unwrap_or("GET"), path);
    if let Some(host) = &request.host {
        message.authority.clone_from(host);
    }
    for (name, value) in &request.headers {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = value
                .as_str()
                .with_context(|| format!("header {name} is no text"))?;
            message = message.header(name, value);
        }
    }
    if let Some(script) = &request.script {
        message = message.header(SCRIPT, &serde_json::to_string(script)?);
    }
    message.body = match (&request.body, request.body_size) {
        (Some(body), _) => Some(Bytes::from(body.clone())),
        (None, Some(size)) => Some(Bytes::from(crate::upstream::pattern(size))),
        (None, None) if !request.trailers.is_empty() => Some(Bytes::new()),
        (None, None) => None,
    };
    message.chunks = request.chunks;
    message.trailers.clone_from(&request.trailers);
    Ok(message)
}
