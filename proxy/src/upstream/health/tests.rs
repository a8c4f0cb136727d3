use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, uri::PathAndQuery};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, advance},
};

use super::{
    event::Event,
    session::{Session, Transition, Verdict, pause, with_jitter},
    *,
};
use crate::{
    config::{
        cluster::UpstreamProtocol,
        health_check::{Checker as Kind, HttpCheck, Intervals},
        http_connection_manager::Http1Options,
    },
    upstream::{Cluster, testing},
};

const PASSED: Verdict = Verdict::Passed { is_degraded: false };
const DEGRADED: Verdict = Verdict::Passed { is_degraded: true };

fn failed(is_retriable: bool) -> Verdict {
    Verdict::Failed {
        is_retriable,
        status: 503,
        is_excluded: false,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config() -> HealthCheck {
    HealthCheck {
        timeout: seconds(1),
        intervals: Intervals {
            healthy: seconds(10),
            unhealthy: seconds(20),
            unhealthy_edge: seconds(3),
            healthy_edge: seconds(4),
            no_traffic: seconds(50),
            no_traffic_healthy: seconds(60),
            initial_jitter: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_percent: 0,
        },
        unhealthy_threshold: 2,
        healthy_threshold: 2,
        reuse_connection: true,
        checker: Kind::Http(Box::new(HttpCheck {
            host: Arc::from("checks.local"),
            path: PathAndQuery::from_static("/healthz"),
            method: Method::GET,
            send: Bytes::new(),
            receive: Vec::new(),
            response_buffer_size: None,
            headers: Default::default(),
            expected: vec![200..201, 204..205],
            retriable: vec![429..430, 503..504],
            is_http2: false,
            service_name: None,
        })),
        event_logs: Vec::new(),
        always_log_failures: false,
        always_log_successes: false,
        raw: Arc::default(),
    }
}

/// A session of a host that was never checked, with what it logs.
struct Sessions {
    config: HealthCheck,
    host: Host,
    session: Session,
    events: Vec<Event>,
}

impl Sessions {
    fn new() -> Self {
        let host = testing::host(1);
        host.set(HealthFlags::FAILED_ACTIVE_HC);
        Self {
            config: config(),
            session: Session::new(&host),
            host,
            events: Vec::new(),
        }
    }

    fn take(&mut self, verdict: Verdict) -> Transition {
        let mut log = |event| self.events.push(event);
        self.session
            .take(&self.host, &self.config, verdict, &mut log)
    }

    fn shown(&self) -> String {
        self.host.flags().to_string()
    }
}

#[test]
fn the_first_success_counts_at_once_and_later_ones_by_the_threshold() {
    let mut one = Sessions::new();
    assert_eq!(one.take(PASSED), Transition::Changed);
    assert_eq!(one.shown(), "healthy");
    assert_eq!(one.events, [Event::AddHealthy { is_first: true }]);
    assert_eq!(one.take(failed(true)), Transition::Pending);
    assert_eq!(one.shown(), "healthy");
    // A success in between starts the count anew.
    assert_eq!(one.take(PASSED), Transition::Unchanged);
    assert_eq!(one.take(failed(true)), Transition::Pending);
    assert_eq!(one.take(Verdict::Network), Transition::Changed);
    assert_eq!(one.shown(), "/failed_active_hc");
    assert_eq!(one.take(Verdict::Network), Transition::Unchanged);
    assert_eq!(one.take(PASSED), Transition::Pending);
    assert_eq!(one.shown(), "/failed_active_hc");
    assert_eq!(one.take(PASSED), Transition::Changed);
    assert_eq!(one.shown(), "healthy");
    assert_eq!(
        one.events[1..],
        [
            Event::EjectUnhealthy(Verdict::Network),
            Event::AddHealthy { is_first: false }
        ]
    );
}

#[test]
fn a_status_that_is_not_retriable_and_the_host_itself_need_no_threshold() {
    for verdict in [failed(false), Verdict::Passive] {
        let mut one = Sessions::new();
        one.take(PASSED);
        assert_eq!(one.take(verdict), Transition::Changed, "{verdict:?}");
        assert!(one.host.flags().has(HealthFlags::FAILED_ACTIVE_HC));
        let is_excluded = verdict == Verdict::Passive;
        assert_eq!(one.host.is_excluded(), is_excluded, "{verdict:?}");
        one.take(PASSED);
        one.take(PASSED);
        assert_eq!(one.shown(), "healthy", "{verdict:?}");
    }
}

#[test]
fn running_out_of_time_shows_until_something_else_happens() {
    let mut one = Sessions::new();
    one.take(Verdict::TimedOut);
    assert_eq!(one.shown(), "/failed_active_hc/active_hc_timeout");
    one.take(Verdict::Network);
    assert_eq!(one.shown(), "/failed_active_hc");
    one.take(Verdict::TimedOut);
    one.take(PASSED);
    one.take(PASSED);
    assert_eq!(one.shown(), "healthy");
}

#[test]
fn degraded_and_new_hosts_are_marked() {
    let mut one = Sessions::new();
    one.host.set(HealthFlags::PENDING_ACTIVE_HC);
    assert_eq!(one.take(DEGRADED), Transition::Changed);
    assert_eq!(one.shown(), "/degraded_active_hc");
    assert_eq!(one.take(DEGRADED), Transition::Unchanged);
    assert_eq!(one.take(PASSED), Transition::Changed);
    assert_eq!(one.shown(), "healthy");
    assert_eq!(
        one.events,
        [
            Event::AddHealthy { is_first: true },
            Event::Degraded,
            Event::NoLongerDegraded
        ]
    );
}

#[test]
fn the_first_failure_is_logged_and_all_are_where_that_is_wanted() {
    let mut one = Sessions::new();
    one.take(failed(true));
    one.take(failed(true));
    let first = Event::Failure {
        verdict: failed(true),
        is_first: true,
    };
    assert_eq!(one.events, [first]);
    one.config.always_log_failures = true;
    one.config.always_log_successes = true;
    one.take(failed(true));
    one.take(PASSED);
    let later = Event::Failure {
        verdict: failed(true),
        is_first: false,
    };
    assert_eq!(one.events, [first, later, Event::Successful]);
    let line = later.line(&one.config.checker, "c", &one.host);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["health_checker_type"], "HTTP");
    assert_eq!(line["host"]["socket_address"]["address"], "10.0.0.1");
    assert_eq!(line["cluster_name"], "c");
    let failure = &line["health_check_failure_event"];
    assert_eq!(failure["failure_type"], "ACTIVE");
    assert_eq!(failure["http_status_code"], 503);
    assert_eq!(failure["first_check"], false);
}

#[test]
fn each_result_has_its_interval() {
    let intervals = config().intervals;
    let next = |is_healthy, transition, has_traffic| {
        pause(&intervals, is_healthy, transition, has_traffic, &mut || 7).as_secs()
    };
    use Transition::{Changed, Pending, Unchanged};
    assert_eq!(next(true, Unchanged, true), 10);
    assert_eq!(next(true, Changed, true), 10);
    assert_eq!(next(true, Pending, true), 4);
    assert_eq!(next(false, Unchanged, true), 20);
    assert_eq!(next(false, Changed, true), 20);
    assert_eq!(next(false, Pending, true), 3);
    assert_eq!(next(true, Pending, false), 60);
    assert_eq!(next(false, Pending, false), 50);
}

#[test]
fn jitter_adds_less_than_it_says() {
    let add = |percent, jitter, random| {
        with_jitter(seconds(10), jitter, percent, &mut || random).as_millis()
    };
    assert_eq!(add(0, Duration::ZERO, u64::MAX), 10_000);
    assert_eq!(add(10, Duration::ZERO, 999), 10_999);
    assert_eq!(add(10, Duration::ZERO, 1000), 10_000);
    assert_eq!(add(0, seconds(2), 1999), 11_999);
    assert_eq!(add(10, seconds(2), 500), 11_000);
    // Never at once.
    let none = with_jitter(Duration::ZERO, Duration::ZERO, 0, &mut || 0);
    assert_eq!(none, Duration::from_millis(1));
}

/// An HTTP/1 host that is checked; it answers with `status`, or not at all if that is 0.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            status: Arc::new(AtomicU16::new(status)),
            checks: Arc::default(),
            connections: Arc::default(),
        };
        let (status, checks) = (Arc::clone(&server.status), Arc::clone(&server.checks));
        let connections = Arc::clone(&server.connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&status), Arc::clone(&checks)));
            }
        });
        server
    }

    fn checks(&self) -> usize {
        self.checks.load(Relaxed)
    }
}

async fn serve(mut stream: TcpStream, status: Arc<AtomicU16>, checks: Arc<AtomicUsize>) {
    let mut read = Vec::new();
    while stream
        .read_buf(&mut read)
        .await
        .is_ok_and(|count| count > 0)
    {
        if !read.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
        assert!(head.starts_with("GET /healthz HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: checks.local\r\n"), "{head}");
        assert!(head.contains("user-agent: Envoy/HC\r\n"), "{head}");
        checks.fetch_add(1, Relaxed);
        let status = status.load(Relaxed);
        if status != 0 {
            let reply = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    }
}

fn cluster(servers: &[&Server], config: HealthCheck) -> Arc<Cluster> {
    let addresses: Vec<_> = servers.iter().map(|server| (server.address, 1)).collect();
    let protocol = UpstreamProtocol::Http1(Http1Options::default());
    let mut cluster = testing::config(&addresses, protocol);
    cluster.health_check = Some(Arc::new(config));
    testing::cluster(cluster)
}

fn flags(cluster: &Cluster) -> String {
    cluster.hosts.load().hosts[0].flags().to_string()
}

fn stats(cluster: &Cluster) -> &Stats {
    &cluster.health.as_ref().unwrap().stats
}

/// Waits without being idle, so that the clock stands still while bytes are under way.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < seconds(20), "never {what}");
        tokio::task::yield_now().await;
    }
}

/// Lets bytes and tasks go on for a while.
async fn settle() {
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(30) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_is_out_while_its_checks_fail() {
    let server = Server::start(200).await;
    let cluster = cluster(&[&server], config());
    assert!(!cluster.initialized());
    assert_eq!(flags(&cluster), "/failed_active_hc");
    let warmed = Arc::new(AtomicUsize::new(0));
    let warm = Arc::clone(&warmed);
    watch(&cluster, Vec::new(), move || {
        warm.fetch_add(1, Relaxed);
    });
    until("warm", || cluster.initialized()).await;
    assert_eq!(warmed.load(Relaxed), 1);
    assert_eq!(flags(&cluster), "healthy");
    assert_eq!(cluster.stats.membership_healthy.value(), 1);
    assert_eq!(stats(&cluster).healthy.value(), 1);
    // Nobody uses the cluster: that is asked for seldom.
    advance(seconds(59)).await;
    settle().await;
    assert_eq!(server.checks(), 1);
    cluster.stats.upstream_cx_total.inc();
    server.status.store(503, Relaxed);
    advance(seconds(1)).await;
    until("failed once", || stats(&cluster).failure.value() == 1).await;
    assert_eq!(flags(&cluster), "healthy");
    advance(seconds(3)).await;
    until("failed twice", || stats(&cluster).failure.value() == 2).await;
    assert_eq!(flags(&cluster), "/failed_active_hc");
    assert_eq!(cluster.stats.membership_healthy.value(), 0);
    assert_eq!(stats(&cluster).healthy.value(), 0);
    server.status.store(200, Relaxed);
    advance(seconds(20)).await;
    until("passed once", || stats(&cluster).success.value() == 2).await;
    assert_eq!(flags(&cluster), "/failed_active_hc");
    advance(seconds(4)).await;
    until("passed twice", || stats(&cluster).success.value() == 3).await;
    assert_eq!(flags(&cluster), "healthy");
    assert_eq!(stats(&cluster).attempt.value(), 5);
    assert_eq!(stats(&cluster).network_failure.value(), 0);
    // All on one connection.
    assert_eq!(server.connections.load(Relaxed), 1);
    assert_eq!(warmed.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_has_a_second() {
    let server = Server::start(0).await;
    let cluster = cluster(&[&server], config());
    watch(&cluster, Vec::new(), || {});
    until("asked", || server.checks() == 1).await;
    let begin = Instant::now();
    advance(Duration::from_millis(999)).await;
    settle().await;
    assert!(!cluster.initialized());
    advance(Duration::from_millis(1)).await;
    until("out of time", || cluster.initialized()).await;
    assert!(begin.elapsed() < seconds(2));
    assert_eq!(flags(&cluster), "/failed_active_hc/active_hc_timeout");
    assert_eq!(stats(&cluster).network_failure.value(), 1);
    // The connection could still carry the late answer: the next check has another one.
    server.status.store(200, Relaxed);
    advance(seconds(50)).await;
    until("passed", || stats(&cluster).success.value() == 1).await;
    assert_eq!(server.connections.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_only_if_they_may_be() {
    let server = Server::start(200).await;
    let mut config = config();
    config.reuse_connection = false;
    let cluster = cluster(&[&server], config);
    watch(&cluster, Vec::new(), || {});
    until("passed", || stats(&cluster).success.value() == 1).await;
    advance(seconds(60)).await;
    until("passed again", || stats(&cluster).success.value() == 2).await;
    assert_eq!(server.connections.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_host_fails_at_once_when_it_says_so() {
    let server = Server::start(200).await;
    let cluster = cluster(&[&server], config());
    watch(&cluster, Vec::new(), || {});
    until("passed", || cluster.initialized()).await;
    let host = Arc::clone(&cluster.hosts.load().hosts[0]);
    cluster.health.as_ref().unwrap().fail_immediately(&host);
    until("failed", || stats(&cluster).passive_failure.value() == 1).await;
    assert_eq!(
        flags(&cluster),
        "/failed_active_hc/excluded_via_immediate_hc_fail"
    );
    assert_eq!(cluster.stats.membership_excluded.value(), 1);
    assert_eq!(server.checks(), 1);
}

#[tokio::test(start_paused = true)]
async fn hosts_and_clusters_that_go_are_checked_no_more() {
    let (first, second) = (Server::start(200).await, Server::start(200).await);
    let mut changing = config();
    changing.intervals.no_traffic_healthy = seconds(1);
    let cluster = cluster(&[&first, &second], changing);
    let task = watch(&cluster, Vec::new(), || {}).unwrap();
    until("warm", || cluster.initialized()).await;
    // A host that passes its checks outlives its removal until it fails them.
    cluster.update_hosts(&testing::assignment(&[(first.address, 1)]));
    let removed = Arc::clone(&cluster.hosts.load().hosts[1]);
    assert_eq!(removed.flags().to_string(), "/pending_dynamic_removal");
    second.status.store(500, Relaxed);
    advance(seconds(1)).await;
    until("gone", || removed.is_removed()).await;
    assert_eq!(cluster.hosts.load().hosts.len(), 1);
    until("checked", || first.checks() == 2).await;
    settle().await;
    for _ in 0..3 {
        advance(seconds(60)).await;
        settle().await;
    }
    assert_eq!(second.checks(), 2);
    let before = first.checks();
    assert!(before > 2, "{before}");
    cluster.retire();
    until("ended", || task.is_finished()).await;
    drop(cluster);
    advance(seconds(60)).await;
    settle().await;
    assert_eq!(first.checks(), before);
}
