//! Pools against real sockets.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Notify, task::LocalSet};

use super::*;
use crate::{
    config::{
        cluster::UpstreamProtocol,
        http_connection_manager::{Http1Options, Http2Options},
    },
    http::Body,
    upstream::testing,
};

/// A server that counts connections and requests; requests to `/wait` wait for `release`.
#[derive(Default)]
struct Server {
    connections: Cell<usize>,
    requests: Cell<usize>,
    release: Notify,
    tasks: RefCell<Vec<tokio::task::AbortHandle>>,
}

impl Server {
    async fn start(http2: Option<u32>) -> (Rc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Rc::new(Self::default());
        let this = Rc::clone(&server);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                this.connections.set(this.connections.get() + 1);
                let server = Rc::clone(&this);
                let service = hyper::service::service_fn(move |request: Request<_>| {
                    Rc::clone(&server).answer(request)
                });
                let task = match http2 {
                    None => tokio::task::spawn_local(async move {
                        let io = TokioIo::new(stream);
                        drop(
                            hyper::server::conn::http1::Builder::new()
                                .serve_connection(io, service)
                                .await,
                        );
                    }),
                    Some(max) => tokio::task::spawn_local(async move {
                        let io = TokioIo::new(stream);
                        let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
                        builder.max_concurrent_streams(max);
                        drop(builder.serve_connection(io, service).await);
                    }),
                };
                this.tasks.borrow_mut().push(task.abort_handle());
            }
        });
        (server, address)
    }

    async fn answer(
        self: Rc<Self>,
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<String>, std::convert::Infallible> {
        self.requests.set(self.requests.get() + 1);
        if request.uri().path() == "/wait" {
            self.release.notified().await;
        }
        Ok(Response::new("hello".to_owned()))
    }

    fn close_all(&self) {
        for task in self.tasks.take() {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn local<F: Future>(future: F) -> F::Output {
    let limited = tokio::time::timeout(Duration::from_secs(20), future);
    LocalSet::new()
        .run_until(limited)
        .await
        .expect("the test hangs")
}

/// Lets other tasks run until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn http1(address: SocketAddr) -> crate::config::cluster::Cluster {
    testing::config(
        &[(address, 1)],
        UpstreamProtocol::Http1(Http1Options::default()),
    )
}

fn http2(address: SocketAddr) -> crate::config::cluster::Cluster {
    testing::config(
        &[(address, 1)],
        UpstreamProtocol::Http2(Http2Options::default()),
    )
}

fn host(pools: &Pools, cluster: &Arc<Cluster>) -> Arc<Host> {
    pools.pick(cluster, PickKey::default(), || 0).unwrap()
}

fn pool1(pools: &Pools, cluster: &Arc<Cluster>) -> Rc<http1::Pool> {
    pools
        .http1(cluster, &host(pools, cluster), Priority::Default)
        .unwrap()
}

fn pool2(pools: &Pools, cluster: &Arc<Cluster>) -> Rc<http2::Pool> {
    pools
        .http2(cluster, &host(pools, cluster), Priority::Default)
        .unwrap()
}

fn request(path: &str) -> Request<Upload> {
    let builder = Request::builder()
        .uri(path)
        .header(header::HOST, "a.example");
    builder.body(Upload::new(Body::Empty, None)).unwrap()
}

/// One whole exchange.
async fn exchange(pool: &Rc<http1::Pool>, path: &str) -> Result<String, Failure> {
    let mut lease = pool.acquire().await?;
    let response = match lease.send(request(path)).await {
        Ok(response) => response,
        Err(http1::SendError::Failed(failure)) => return Err(failure),
        Err(http1::SendError::Unsent(_)) => panic!("not sent"),
    };
    let body = response.into_body().collect().await.unwrap().to_bytes();
    lease.release(std::time::Instant::now());
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// Nothing is counted any more: guards gave everything back.
fn assert_idle(cluster: &Cluster) {
    let resources = cluster.circuit.of(Priority::Default);
    assert_eq!(resources.requests.current(), 0);
    assert_eq!(resources.pending.current(), 0);
    assert_eq!(cluster.stats.upstream_rq_active.value(), 0);
    assert_eq!(cluster.stats.upstream_rq_pending_active.value(), 0);
}

#[tokio::test]
async fn http1_connections_are_reused() {
    local(async {
        let (server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let pool = pool1(&pools, &cluster);
        for _ in 0..3 {
            assert_eq!(exchange(&pool, "/").await.unwrap(), "hello");
        }
        assert_eq!((server.connections.get(), server.requests.get()), (1, 3));
        assert_eq!(cluster.stats.upstream_cx_total.value(), 1);
        assert_eq!(cluster.stats.upstream_cx_http1_total.value(), 1);
        assert_eq!(cluster.stats.upstream_rq_total.value(), 3);
        assert_eq!(cluster.stats.upstream_rq_pending_total.value(), 1);
        assert_idle(&cluster);
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_only_so_many_requests() {
    local(async {
        let (server, address) = Server::start(None).await;
        let mut config = http1(address);
        config.max_requests_per_connection = 2;
        let (pools, cluster) = (Pools::default(), testing::cluster(config));
        let pool = pool1(&pools, &cluster);
        for _ in 0..4 {
            exchange(&pool, "/").await.unwrap();
        }
        assert_eq!(server.connections.get(), 2);
        assert_eq!(cluster.stats.upstream_cx_max_requests.value(), 2);
        until(|| cluster.stats.upstream_cx_destroy_local.value() == 2).await;
    })
    .await;
}

#[tokio::test]
async fn closed_connections_are_not_used_again() {
    local(async {
        let (server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let pool = pool1(&pools, &cluster);
        exchange(&pool, "/").await.unwrap();
        server.close_all();
        until(|| cluster.stats.upstream_cx_active.value() == 0).await;
        assert_eq!(cluster.stats.upstream_cx_destroy_remote.value(), 1);
        exchange(&pool, "/").await.unwrap();
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_for_a_connection_when_there_may_be_no_more() {
    local(async {
        let (server, address) = Server::start(None).await;
        let mut config = http1(address);
        config.circuit_breakers.default.max_connections = 1;
        let (pools, cluster) = (Pools::default(), testing::cluster(config));
        let pool = pool1(&pools, &cluster);
        let (first, second, ()) = tokio::join!(
            exchange(&pool, "/wait"),
            async {
                until(|| server.requests.get() == 1).await;
                exchange(&pool, "/").await
            },
            async {
                until(|| cluster.stats.upstream_rq_pending_total.value() == 2).await;
                assert_eq!(server.requests.get(), 1);
                server.release.notify_one();
            }
        );
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(server.connections.get(), 1);
        assert_eq!(cluster.stats.upstream_cx_overflow.value(), 1);
        assert_idle(&cluster);
    })
    .await;
}

#[tokio::test]
async fn thresholds_refuse_requests() {
    local(async {
        let (_server, address) = Server::start(None).await;
        let mut config = http1(address);
        config.circuit_breakers.default.max_pending_requests = 0;
        let (pools, cluster) = (Pools::default(), testing::cluster(config));
        let refused = exchange(&pool1(&pools, &cluster), "/").await;
        assert_eq!(refused, Err(Failure::Overflow(Limit::Pending)));
        assert_eq!(cluster.stats.upstream_rq_pending_overflow.value(), 1);
        assert_eq!(cluster.stats.upstream_cx_total.value(), 0);

        let mut config = http1(address);
        config.circuit_breakers.default.max_requests = 0;
        let (pools, cluster) = (Pools::default(), testing::cluster(config));
        let refused = exchange(&pool1(&pools, &cluster), "/").await;
        assert_eq!(refused, Err(Failure::Overflow(Limit::Requests)));
        assert_eq!(cluster.stats.upstream_rq_active_overflow.value(), 1);
        assert_idle(&cluster);
    })
    .await;
}

/// Requests that are answered, given up at any moment, or refused, with retry permits beside them:
/// every breaker counts nothing in the end.
#[tokio::test]
async fn no_breaker_keeps_a_count() {
    local(async {
        let (_server, address) = Server::start(None).await;
        let mut config = http1(address);
        let limits = &mut config.circuit_breakers.default;
        limits.max_connections = 2;
        limits.max_pending_requests = 3;
        limits.max_requests = 4;
        limits.max_retries = 2;
        limits.max_connection_pools = Some(1);
        let (pools, cluster) = (Pools::default(), testing::cluster(config));
        let mut random = 7_u64;
        for _ in 0..60 {
            let mut tasks = Vec::new();
            for _ in 0..6 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let path = ["/", "/wait"][usize::try_from(random >> 63).unwrap()];
                let limit = Duration::from_micros(random >> 40 & 0x7ff);
                let pool = pool1(&pools, &cluster);
                let now = std::time::Instant::now();
                let permit = cluster.circuit.retry(Priority::Default, now);
                tasks.push(tokio::task::spawn_local(async move {
                    let _given_up = tokio::time::timeout(limit, exchange(&pool, path)).await;
                    drop(permit);
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
        }
        assert_idle(&cluster);
        let resources = cluster.circuit.of(Priority::Default);
        assert_eq!(resources.retries.current(), 0);
        let now = std::time::Instant::now();
        assert!(resources.usage(now).iter().any(|usage| usage.trips > 0));
        drop(pools);
        until(|| resources.connections.current() == 0).await;
        until(|| resources.pools.current() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_connection_fails_all_who_wait() {
    local(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let pool = pool1(&pools, &cluster);
        let (first, second) = tokio::join!(exchange(&pool, "/"), exchange(&pool, "/"));
        let refused = Failure::Connect(ConnectFailure {
            is_timeout: false,
            is_local: false,
            reason: "Connection refused".into(),
        });
        assert_eq!(first, Err(refused.clone()));
        assert_eq!(second, Err(refused));
        assert_eq!(cluster.stats.upstream_rq_pending_failure_eject.value(), 2);
        assert!(cluster.stats.upstream_cx_connect_fail.value() >= 1);
        until(|| cluster.stats.upstream_cx_active.value() == 0).await;
        assert_idle(&cluster);
    })
    .await;
}

#[tokio::test]
async fn giving_up_while_waiting_is_counted_and_leaks_nothing() {
    local(async {
        let (server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let pool = pool1(&pools, &cluster);
        {
            let waiting = pool.acquire();
            let mut waiting = std::pin::pin!(waiting);
            std::future::poll_fn(|cx| {
                assert!(waiting.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        assert_eq!(cluster.stats.upstream_rq_cancelled.value(), 1);
        assert_idle(&cluster);
        // The connection that was on its way serves the next one.
        until(|| server.connections.get() == 1).await;
        exchange(&pool, "/").await.unwrap();
        assert_eq!(server.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn dropping_a_request_closes_its_connection() {
    local(async {
        let (server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let pool = pool1(&pools, &cluster);
        let mut lease = pool.acquire().await.unwrap();
        let mut sent = Box::pin(lease.send(request("/wait")));
        tokio::select! {
            _ = &mut sent => panic!("there is no answer yet"),
            () = until(|| server.requests.get() == 1) => {}
        }
        drop(sent);
        drop(lease);
        until(|| cluster.stats.upstream_cx_active.value() == 0).await;
        assert_eq!(
            cluster
                .stats
                .upstream_cx_destroy_local_with_active_rq
                .value(),
            1
        );
        assert_idle(&cluster);
    })
    .await;
}

#[tokio::test]
async fn pools_of_removed_hosts_drain() {
    local(async {
        let (_server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        exchange(&pool1(&pools, &cluster), "/").await.unwrap();
        assert_eq!(cluster.stats.upstream_cx_active.value(), 1);
        cluster.update_hosts(&testing::assignment(&[]));
        pools.reconcile(|_| true);
        until(|| cluster.stats.upstream_cx_active.value() == 0).await;
        assert!(pools.pick(&cluster, PickKey::default(), || 0).is_none());
        assert_eq!(cluster.stats.upstream_cx_none_healthy.value(), 1);
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_a_host_that_leaves_is_served() {
    local(async {
        for protocol in [1, 2] {
            let (server, address) = Server::start((protocol == 2).then_some(100)).await;
            let config = if protocol == 2 {
                http2(address)
            } else {
                http1(address)
            };
            let (pools, cluster) = (Pools::default(), testing::cluster(config));
            let host = host(&pools, &cluster);
            let leave = async {
                until(|| cluster.stats.upstream_rq_pending_active.value() == 1).await;
                cluster.update_hosts(&testing::assignment(&[]));
                pools.reconcile(|_| true);
            };
            if protocol == 2 {
                let pool = pools.http2(&cluster, &host, Priority::Default).unwrap();
                let (outcome, ()) = tokio::join!(stream(&pool, "/"), leave);
                assert_eq!(outcome.unwrap(), "hello");
            } else {
                let pool = pools.http1(&cluster, &host, Priority::Default).unwrap();
                let (outcome, ()) = tokio::join!(exchange(&pool, "/"), leave);
                assert_eq!(outcome.unwrap(), "hello");
            }
            until(|| cluster.stats.upstream_cx_active.value() == 0).await;
            assert_eq!(server.connections.get(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn http1_connections_end_when_idle_for_too_long() {
    local(async {
        let (_server, address) = Server::start(None).await;
        let mut config = http1(address);
        config.idle_timeout = Duration::from_millis(20);
        let (pools, cluster) = (Pools::default(), testing::cluster(config));
        exchange(&pool1(&pools, &cluster), "/").await.unwrap();
        until(|| cluster.stats.upstream_cx_active.value() == 0).await;
        assert_eq!(cluster.stats.upstream_cx_idle_timeout.value(), 1);
        assert_eq!(cluster.stats.upstream_cx_destroy_local.value(), 1);
    })
    .await;
}

async fn stream(pool: &Rc<http2::Pool>, path: &str) -> Result<String, Failure> {
    let lease = pool.acquire().await?;
    let request = Request::builder()
        .uri(format!("http://a.example{path}"))
        .body(())
        .unwrap();
    let (response, _stream) = lease.send(request, true)?;
    let response = response
        .await
        .map_err(|error| Failure::from_http2(&error))?;
    let body = Body::http2(response.into_body(), None)
        .collect()
        .await
        .unwrap()
        .to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn http2_requests_share_a_connection() {
    local(async {
        let (server, address) = Server::start(Some(100)).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http2(address)));
        let pool = pool2(&pools, &cluster);
        let all = (0..20).map(|_| stream(&pool, "/"));
        for outcome in futures_util::future::join_all(all).await {
            assert_eq!(outcome.unwrap(), "hello");
        }
        assert_eq!((server.connections.get(), server.requests.get()), (1, 20));
        assert_eq!(cluster.stats.upstream_cx_http2_total.value(), 1);
        assert_idle(&cluster);
    })
    .await;
}

#[tokio::test]
async fn a_full_http2_connection_gets_company() {
    local(async {
        let (server, address) = Server::start(Some(2)).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http2(address)));
        let pool = pool2(&pools, &cluster);
        // The first exchange makes the peer's limit known.
        stream(&pool, "/").await.unwrap();
        let all = (0..3).map(|_| stream(&pool, "/wait"));
        let (outcomes, ()) = tokio::join!(futures_util::future::join_all(all), async {
            until(|| server.requests.get() == 4).await;
            server.release.notify_waiters();
        });
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(server.connections.get(), 2);
        assert_idle(&cluster);
    })
    .await;
}

#[tokio::test]
async fn a_dropped_http2_request_leaves_its_connection() {
    local(async {
        let (server, address) = Server::start(Some(100)).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http2(address)));
        let pool = pool2(&pools, &cluster);
        tokio::select! {
            _ = stream(&pool, "/wait") => panic!("there is no answer yet"),
            () = until(|| server.requests.get() == 1) => {}
        }
        assert_idle(&cluster);
        assert_eq!(stream(&pool, "/").await.unwrap(), "hello");
        assert_eq!(server.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn http2_connections_that_end_are_replaced() {
    local(async {
        let (server, address) = Server::start(Some(100)).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http2(address)));
        let pool = pool2(&pools, &cluster);
        stream(&pool, "/").await.unwrap();
        server.close_all();
        until(|| cluster.stats.upstream_cx_active.value() == 0).await;
        stream(&pool, "/").await.unwrap();
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

fn tcp(pools: &Pools, cluster: &Arc<Cluster>, host: &Arc<Host>) -> Rc<tcp::Pool> {
    pools.tcp(cluster, host, Priority::Default).unwrap()
}

#[tokio::test]
async fn a_cluster_may_change_while_a_connection_is_made() {
    local(async {
        let (_server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let host = host(&pools, &cluster);
        let pool = tcp(&pools, &cluster, &host);
        let mut connecting = std::pin::pin!(pool.connect());
        assert!(futures_util::poll!(connecting.as_mut()).is_pending());
        // A new version of the cluster that has the host too.
        let registry = crate::telemetry::stats::Registry::new(1);
        let newer = Cluster::new(Arc::new(http1(address)), &registry, Some(&cluster));
        tcp(&pools, &newer, &host);
        connecting.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_nobody_used_carried_no_request() {
    local(async {
        let (_server, address) = Server::start(None).await;
        let (pools, cluster) = (Pools::default(), testing::cluster(http1(address)));
        let pool = tcp(&pools, &cluster, &host(&pools, &cluster));
        drop(pool.connect().await.unwrap());
        let stats = &cluster.stats;
        assert_eq!(stats.upstream_rq_total.value(), 0);
        assert_eq!(stats.upstream_cx_destroy_local.value(), 1);
        assert_eq!(stats.upstream_cx_destroy_with_active_rq.value(), 0);

        let mut used = pool.connect().await.unwrap();
        used.begin();
        assert_eq!(stats.upstream_rq_active.value(), 1);
        used.end(false);
        assert_eq!(stats.upstream_rq_total.value(), 1);
        assert_eq!(stats.upstream_cx_destroy_remote.value(), 1);
        assert_eq!(stats.upstream_cx_total.value(), 2);
        assert_eq!(stats.upstream_cx_active.value(), 0);
        assert_idle(&cluster);
    })
    .await;
}
