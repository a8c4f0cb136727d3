//! Bulkheads over real sockets: the limit, the queue and its order, time limits, clients that go away,
//! settings of routes, and what is shown of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::client::{Http1, Http2, Request, Response};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{SCRIPT, Upstream};
use outrigger_tests::{block_on, wait};
use serde_json::{Value, json};

const PACKAGE: &str = "type.googleapis.com/outrigger.extensions.filters.http.bulkhead.v1alpha1";
const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const SOON: Duration = Duration::from_secs(5);

#[test]
fn the_surplus_waits_and_the_rest_is_told_who_fills_it() {
    check(bulkhead(1, 1, "5s"), json!({}), async |proxy, upstream| {
        let main = proxy.listener("main").await?;
        let first = tokio::spawn(slow(600).header("x-caller", "noisy").send_h1(main));
        pending(upstream, 1).await?;
        let second = tokio::spawn(slow(0).header("x-caller", "noisy").send_h1(main));
        stat(proxy, "bulkhead.reviews.queued", 1).await?;

        let begun = Instant::now();
        let refused = slow(0).header("x-caller", "noisy").send_h2(main).await?;
        ensure!(
            begun.elapsed() < Duration::from_millis(300),
            "{:?}",
            begun.elapsed()
        );
        ensure!(
            refused.status == 503 && refused.text() == "bulkhead overflow",
            "{refused:?}"
        );
        ensure!(
            refused.header("x-envoy-overloaded") == Some("true"),
            "{refused:?}"
        );
        let reason = "bulkhead max_concurrent=1 queued=1/1 filled by caller \"noisy\" 1 of 1 (Bulkhead/shop/reviews)";
        ensure!(
            refused.header("x-outrigger-reason") == Some(reason),
            "{refused:?}"
        );

        let shown = bulkheads(proxy).await?;
        ensure!(
            shown["name"] == "reviews" && shown["origin"] == "Bulkhead/shop/reviews",
            "{shown}"
        );
        ensure!(
            shown["max_concurrent"] == 1 && shown["in_use"] == 1,
            "{shown}"
        );
        ensure!(shown["max_queued"] == 1 && shown["queued"] == 1, "{shown}");
        ensure!(shown["overflow"] == 1, "{shown}");
        ensure!(
            shown["top_callers"][0] == json!({"caller": "noisy", "in_use": 1}),
            "{shown}"
        );
        ensure!(
            shown["top_waiting"][0] == json!({"caller": "noisy", "queued": 1}),
            "{shown}"
        );
        ensure!(shown["last_rejection"]["reason"] == reason, "{shown}");
        let text = proxy.admin_get("/bulkheads").await?.text();
        ensure!(text.contains("reviews::in_use::1\n"), "{text}");
        ensure!(
            text.contains("reviews::caller::\"noisy\"::queued::1\n"),
            "{text}"
        );

        served(&first.await??)?;
        served(&second.await??)?;
        stat(proxy, "bulkhead.reviews.active", 0).await?;
        stat(proxy, "bulkhead.reviews.admitted", 2).await?;
        stat(proxy, "bulkhead.reviews.limit", 1).await?;
        let log = std::fs::read_to_string(proxy.folder().join("access.log"));
        let refused = log.context("the access log")?;
        ensure!(refused.contains("503 UO bulkhead_overflow\n"), "{refused}");
        Ok(())
    });
}

#[test]
fn waiting_has_an_end() {
    check(
        bulkhead(1, 5, "0.2s"),
        json!({}),
        async |proxy, upstream| {
            let main = proxy.listener("main").await?;
            let first = tokio::spawn(slow(1000).send_h1(main));
            pending(upstream, 1).await?;
            let begun = Instant::now();
            let late = slow(0).send_h1(main).await?;
            let waited = begun.elapsed();
            ensure!((200..600).contains(&waited.as_millis()), "{waited:?}");
            ensure!(
                late.status == 503 && late.text() == "bulkhead queue timeout",
                "{late:?}"
            );
            let reason = late.header("x-outrigger-reason").unwrap_or_default();
            ensure!(reason.contains("queue_timeout=200ms"), "{late:?}");
            // A gRPC client is told in its own way.
            let grpc = slow(0)
                .header("content-type", "application/grpc")
                .send_h2(main)
                .await?;
            ensure!(
                grpc.status == 200 && grpc.header("grpc-status") == Some("14"),
                "{grpc:?}"
            );
            stat(proxy, "bulkhead.reviews.queue_timeout", 2).await?;
            stat(proxy, "bulkhead.reviews.queued", 0).await?;
            served(&first.await??)
        },
    );
}

#[test]
fn a_client_that_goes_away_gives_back_its_place_and_its_turn() {
    check(bulkhead(1, 5, "5s"), json!({}), async |proxy, upstream| {
        let main = proxy.listener("main").await?;
        let mut running = Http2::connect(main).await?;
        let running = tokio::spawn(async move { running.send(slow(10_000)).await });
        pending(upstream, 1).await?;
        let mut waits = Http1::connect(main).await?;
        let waits = tokio::spawn(async move { waits.send(slow(0)).await });
        stat(proxy, "bulkhead.reviews.queued", 1).await?;
        let next = tokio::spawn(slow(0).send_h1(main));
        stat(proxy, "bulkhead.reviews.queued", 2).await?;
        // Aborting the task drops its connection.
        waits.abort();
        stat(proxy, "bulkhead.reviews.queued", 1).await?;
        running.abort();
        served(&next.await??)?;
        stat(proxy, "bulkhead.reviews.active", 0).await
    });
}

#[test]
fn a_place_is_taken_until_the_body_has_been_sent() {
    check(bulkhead(1, 0, ""), json!({}), async |proxy, upstream| {
        let main = proxy.listener("main").await?;
        let body = Request::new("GET", "/").header(
            SCRIPT,
            r#"{"body": "0123456789", "chunks": 5, "frame_delay_ms": 200}"#,
        );
        let first = tokio::spawn(body.send_h1(main));
        // The head is sent at once, the body takes a second.
        pending(upstream, 1).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let refused = slow(0).send_h1(main).await?;
        ensure!(refused.status == 503, "{refused:?}");
        ensure!(first.await??.text() == "0123456789", "the body is whole");
        stat(proxy, "bulkhead.reviews.active", 0).await?;
        served(&slow(0).send_h1(main).await?)
    });
}

#[test]
fn a_noisy_caller_takes_nothing_from_a_quiet_one() {
    check(bulkhead(2, 6, "5s"), json!({}), async |proxy, _| {
        let main = proxy.listener("main").await?;
        let stop = Arc::new(AtomicBool::new(false));
        let noisy: Vec<_> = (0..20)
            .map(|_| tokio::spawn(hammer(main, Arc::clone(&stop))))
            .collect();
        stat(proxy, "bulkhead.reviews.queued", 6).await?;
        for _ in 0..20 {
            served(&slow(20).header("x-caller", "quiet").send_h1(main).await?)?;
        }
        stop.store(true, Relaxed);
        let mut refused = 0;
        for task in noisy {
            refused += task.await??;
        }
        ensure!(refused > 0, "the noisy caller was never refused");
        Ok(())
    });
}

#[test]
fn a_free_place_is_for_the_caller_that_has_fewest() {
    check(bulkhead(4, 4, "60s"), json!({}), async |proxy, upstream| {
        let main = proxy.listener("main").await?;
        let start = |caller: &str, id: &str| {
            let request = slow(60_000).header("x-caller", caller).header("x-id", id);
            tokio::spawn(request.send_h2(main))
        };
        // One caller has all places and more in the queue, before another one comes.
        let mut held = Vec::new();
        for count in 1..=4 {
            held.push(start("noisy", "held"));
            pending(upstream, count).await?;
        }
        upstream.take_received();
        let mut waits = Vec::new();
        for (queued, (caller, id)) in [
            ("noisy", "n1"),
            ("noisy", "n2"),
            ("quiet", "q1"),
            ("quiet", "q2"),
        ]
        .into_iter()
        .enumerate()
        {
            waits.push(start(caller, id));
            stat(proxy, "bulkhead.reviews.queued", queued as u64 + 1).await?;
        }
        // As places become free, they have 3 and 0, 2 and 1, 1 and 2, 1 and 2.
        let mut order = Vec::new();
        for held in held {
            // Aborting the task drops its connection.
            held.abort();
            pending(upstream, 1).await?;
            for received in upstream.take_received() {
                let id = received
                    .headers
                    .into_iter()
                    .find(|(name, _)| name == "x-id");
                order.extend(id.map(|(_, id)| id));
            }
        }
        ensure!(order == ["q1", "q2", "n1", "n2"], "{order:?}");
        for waits in waits {
            waits.abort();
        }
        stat(proxy, "bulkhead.reviews.active", 0).await
    });
}

#[test]
fn workers_share_the_places() {
    check_with(bulkhead(3, 60, "10s"), json!({}), 2, async |proxy, _| {
        let main = proxy.listener("main").await?;
        let clients: Vec<_> = (0..30)
            .map(|_| tokio::spawn(slow(30).send_h1(main)))
            .collect();
        let mut most = 0;
        while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
            let stats = proxy.stats().await?;
            most = most.max(stats["cluster.a.upstream_rq_active"]);
        }
        for client in clients {
            served(&client.await??)?;
        }
        ensure!((1..=3).contains(&most), "{most} at once");
        stat(proxy, "bulkhead.reviews.admitted", 30).await?;
        stat(proxy, "bulkhead.reviews.active", 0).await
    });
}

#[test]
fn routes_have_their_own_or_none_and_a_cluster_narrows_it() {
    let own = json!({
        "@type": format!("{PACKAGE}.BulkheadPerRoute"),
        "bulkhead": {"stat_prefix": "own", "max_concurrent": 1, "caller_source_address": true}
    });
    let off = json!({"@type": format!("{PACKAGE}.BulkheadPerRoute"), "disabled": true});
    let mut filter = bulkhead(1, 0, "");
    filter["cluster"] = "a".into();
    let routes = json!({"own": own, "off": off});
    check(filter, routes, async |proxy, upstream| {
        let main = proxy.listener("main").await?;
        let to = |path: &str, delay: u64| {
            let mut request = slow(delay);
            request.path = path.to_owned();
            request.send_h1(main)
        };
        let held = [tokio::spawn(to("/", 1500)), tokio::spawn(to("/own", 1500))];
        pending(upstream, 2).await?;
        for (path, status) in [("/", 503), ("/own", 503), ("/off", 200), ("/b", 200)] {
            let reply = to(path, 0).await?;
            ensure!(reply.status == status, "{path}: {reply:?}");
            if path == "/own" {
                let reason = reply.header("x-outrigger-reason").unwrap_or_default();
                ensure!(reason.contains("\"127.0.0.1\" 1 of 1 (own)"), "{reason}");
            }
        }
        for held in held {
            served(&held.await??)?;
        }
        Ok(())
    });
}

#[test]
fn a_filter_that_is_off_serves_routes_that_bring_their_own() {
    let own = json!({
        "@type": format!("{PACKAGE}.BulkheadPerRoute"),
        "bulkhead": {"stat_prefix": "own", "max_concurrent": 1}
    });
    let mut filter = bulkhead(1, 0, "");
    filter["disabled"] = true.into();
    check(filter, json!({"own": own}), async |proxy, upstream| {
        let main = proxy.listener("main").await?;
        let to = |path: &str, delay: u64| {
            let mut request = slow(delay);
            request.path = path.to_owned();
            request.send_h1(main)
        };
        let held = [tokio::spawn(to("/", 800)), tokio::spawn(to("/own", 800))];
        pending(upstream, 2).await?;
        served(&to("/", 0).await?)?;
        ensure!(
            to("/own", 0).await?.status == 503,
            "the route's own is full"
        );
        let shown = proxy.admin_get("/bulkheads?format=json").await?;
        let shown: Value = serde_json::from_slice(&shown.body)?;
        let names: Vec<_> = shown["bulkheads"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        ensure!(names.len() == 1 && names[0]["name"] == "own", "{shown}");
        for held in held {
            served(&held.await??)?;
        }
        Ok(())
    });
}

#[test]
fn places_in_use_outlive_a_change_of_the_configuration() {
    let run = async {
        let upstream = Upstream::start("a").await?;
        let folder = tempfile::tempdir()?;
        let listeners = folder.path().join("listeners.json");
        let log = folder.path().join("access.log").display().to_string();
        let whole = |max: u32| -> Result<Value> {
            let filter = bulkhead(max, 1, "10s");
            Ok(serde_json::from_str(&config(
                &upstream,
                &filter,
                &json!({}),
                &log,
            ))?)
        };
        let write = |max: u32| -> Result<()> {
            let mut listener = whole(max)?["static_resources"]["listeners"][0].take();
            listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
            let beside = folder.path().join("next");
            std::fs::write(&beside, json!({"resources": [listener]}).to_string())?;
            Ok(std::fs::rename(beside, &listeners)?)
        };
        write(1)?;
        let mut bootstrap = whole(1)?;
        bootstrap["static_resources"]["listeners"] = json!([]);
        bootstrap["dynamic_resources"] = json!({"lds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": listeners},
        }});
        let proxy = Proxy::start(Kind::Outrigger, &bootstrap.to_string()).await?;
        let main = proxy.listener("main").await?;
        let held = tokio::spawn(slow(1700).send_h1(main));
        pending(&upstream, 1).await?;
        let waits = tokio::spawn(slow(0).send_h1(main));
        stat(&proxy, "bulkhead.reviews.queued", 1).await?;
        // (The listener of before drains for 2 s.) One more place: who waits under the configuration before goes on.
        write(2)?;
        served(&waits.await??)?;
        ensure!(!held.is_finished(), "the place was given back too early");
        let shown = bulkheads(&proxy).await?;
        ensure!(
            shown["max_concurrent"] == 2 && shown["in_use"] == 1,
            "{shown}"
        );
        // Under the limit of before, what is in use counts for new requests too.
        write(1)?;
        stat(&proxy, "bulkhead.reviews.limit", 1).await?;
        let main = proxy.listener("main").await?;
        let late = tokio::spawn(slow(0).send_h1(main));
        stat(&proxy, "bulkhead.reviews.queued", 1).await?;
        served(&held.await??)?;
        served(&late.await??)
    };
    if let Err(error) = block_on(run) {
        panic!("{error:#}");
    }
}

/// Requests that end in every way there is, many at once: nothing of what they held stays behind.
#[test]
fn nothing_leaks_however_requests_end() {
    let limits = bulkhead(4, 4, "0.1s");
    check_with(limits, json!({}), 2, async |proxy, _| {
        let main = proxy.listener("main").await?;
        let mut tasks = Vec::new();
        for number in 0..240_u64 {
            let script = match number % 6 {
                0 => json!({"body": "done"}),
                1 => json!({"delay_ms": 40, "body": "done"}),
                2 => json!({"reset": "before_headers"}),
                3 => json!({"reset": "mid_body", "body_size": 200_000}),
                4 => json!({"body": "0123456789", "chunks": 5, "frame_delay_ms": 15}),
                _ => json!({"early": true, "status": 500}),
            };
            let mut request = Request::new("POST", if number % 5 == 0 { "/short" } else { "/" })
                .header(SCRIPT, &script.to_string())
                .header("x-caller", ["a", "b", "c"][(number % 3) as usize]);
            request.body = Some(vec![b'x'; 1000].into());
            let task = tokio::spawn(async move {
                match number % 2 {
                    0 => request.send_h1(main).await,
                    _ => request.send_h2(main).await,
                }
            });
            // Some clients go away: at once, or in the middle.
            if number % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(number % 30)).await;
                task.abort();
            } else {
                tasks.push(task);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
        for task in tasks {
            *statuses.entry(task.await??.status).or_default() += 1;
        }
        ensure!(
            statuses.contains_key(&200) && statuses.contains_key(&503),
            "{statuses:?}"
        );
        for gauge in [
            "bulkhead.reviews.active",
            "bulkhead.reviews.queued",
            "cluster.a.upstream_rq_active",
            "cluster.a.upstream_rq_pending_active",
            "http.main.downstream_rq_active",
        ] {
            stat(proxy, gauge, 0).await?;
        }
        let shown = bulkheads(proxy).await?;
        ensure!(shown["in_use"] == 0 && shown["queued"] == 0, "{shown}");
        ensure!(shown["top_callers"] == json!([]), "{shown}");
        ensure!(shown["top_waiting"] == json!([]), "{shown}");
        Ok(())
    });
}

/// Sends one request after the other; how many were refused.
async fn hammer(main: SocketAddr, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut refused = 0;
    let mut connection = Http2::connect(main).await?;
    while !stop.load(Relaxed) {
        let reply = connection
            .send(slow(20).header("x-caller", "noisy"))
            .await?;
        if reply.status == 503 {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(refused)
}

fn slow(delay_ms: u64) -> Request {
    let script = json!({"delay_ms": delay_ms, "body": "done"});
    Request::new("GET", "/").header(SCRIPT, &script.to_string())
}

fn served(reply: &Response) -> Result<()> {
    ensure!(reply.status == 200 && reply.text() == "done", "{reply:?}");
    Ok(())
}

async fn pending(upstream: &Upstream, count: usize) -> Result<()> {
    wait::until("requests to reach the upstream", SOON, async || {
        ensure!(upstream.pending() == count, "{} have", upstream.pending());
        Ok(())
    })
    .await
}

async fn stat(proxy: &Proxy, name: &str, value: u64) -> Result<()> {
    wait::until(name, SOON, async || {
        let stats = proxy.stats().await?;
        ensure!(
            stats.get(name) == Some(&value),
            "{:?}, not {value}",
            stats.get(name)
        );
        Ok(())
    })
    .await
}

async fn bulkheads(proxy: &Proxy) -> Result<Value> {
    let reply = proxy.admin_get("/bulkheads?format=json").await?;
    let shown: Value = serde_json::from_slice(&reply.body)?;
    Ok(shown["bulkheads"][0].clone())
}

fn bulkhead(max_concurrent: u32, max_queued: u32, timeout: &str) -> Value {
    let mut bulkhead = json!({
        "@type": format!("{PACKAGE}.Bulkhead"),
        "stat_prefix": "reviews",
        "origin": "Bulkhead/shop/reviews",
        "max_concurrent": max_concurrent,
        "max_queued": max_queued,
        "caller_header": "x-caller",
    });
    if !timeout.is_empty() {
        bulkhead["queue_timeout"] = timeout.into();
    }
    bulkhead
}

fn check(filter: Value, routes: Value, test: impl AsyncFnOnce(&Proxy, &Upstream) -> Result<()>) {
    check_with(filter, routes, 1, test);
}

/// Runs a test with this filter, and a route `/NAME` for each setting in `routes`.
fn check_with(
    filter: Value,
    routes: Value,
    workers: usize,
    test: impl AsyncFnOnce(&Proxy, &Upstream) -> Result<()>,
) {
    let run = async {
        let upstream = Upstream::start("a").await?;
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("access.log");
        let config = config(&upstream, &filter, &routes, &log.display().to_string());
        let workers = workers.to_string();
        let args = ["--concurrency", &workers];
        let proxy = Proxy::start_in(Kind::Outrigger, &config, folder, &args).await?;
        test(&proxy, &upstream).await.with_context(|| proxy.log())
    };
    if let Err(error) = block_on(run) {
        panic!("{error:#}");
    }
}

fn config(upstream: &Upstream, filter: &Value, routes: &Value, log: &str) -> String {
    let socket =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let cluster = |name: &str| {
        json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": socket(upstream.address().port())}},
                ]}],
            },
        })
    };
    let mut filter = filter.clone();
    let disabled = filter["disabled"].take();
    if let Some(fields) = filter.as_object_mut() {
        fields.remove("disabled");
    }
    let disabled = disabled == json!(true);
    let mut table: Vec<Value> = routes
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, setting)| {
            json!({
                "match": {"prefix": format!("/{name}")},
                "route": {"cluster": "a"},
                "typed_per_filter_config": {"bulkhead": setting},
            })
        })
        .collect();
    table.push(json!({
        "match": {"prefix": "/short"},
        "route": {"cluster": "a", "timeout": "0.02s"},
    }));
    table.push(json!({"match": {"prefix": "/b"}, "route": {"cluster": "b"}}));
    table.push(json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}}));
    json!({
        "admin": {"address": socket(0)},
        "static_resources": {
            "listeners": [{
                "name": "main",
                "address": socket(0),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": format!(
                            "{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"
                        ),
                        "stat_prefix": "main",
                        "access_log": [{"name": "file", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                            "path": log,
                            "log_format": {"text_format_source": {"inline_string":
                                "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}},
                        }}],
                        "route_config": {"name": "main", "virtual_hosts": [
                            {"name": "all", "domains": ["*"], "routes": table},
                        ]},
                        "http_filters": [
                            {"name": "bulkhead", "disabled": disabled, "typed_config": filter},
                            {
                                "name": "envoy.filters.http.router",
                                "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")},
                            },
                        ],
                    },
                }]}],
            }],
            "clusters": [cluster("a"), cluster("b")],
        },
    })
    .to_string()
}
