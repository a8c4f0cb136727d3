use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, advance};

use super::{event::Event, judge::Court, monitor::Probe, *};
use crate::{
    config::{
        cluster::UpstreamProtocol,
        http_connection_manager::Http1Options,
        outlier_detection::{Detector as Limits, EjectOne, FailurePercentage, SuccessRate},
    },
    upstream::{Cluster, HealthFlags, testing},
};

fn config() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: Limits {
            threshold: 3,
            enforcing: 100,
        },
        consecutive_gateway_failure: Limits {
            threshold: 2,
            enforcing: 0,
        },
        consecutive_local_origin_failure: Limits {
            threshold: 2,
            enforcing: 100,
        },
        success_rate: SuccessRate {
            minimum_hosts: 3,
            request_volume: 10,
            stdev_factor: 1000,
            enforcing: 100,
            enforcing_local_origin: 100,
        },
        failure_percentage: FailurePercentage {
            minimum_hosts: 3,
            request_volume: 5,
            threshold: 85,
            enforcing: 0,
            enforcing_local_origin: 0,
        },
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(100),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 100,
        eject_one: EjectOne::Never,
        split_external_local_origin_errors: false,
        successful_active_health_check_uneject_host: true,
    }
}

fn cluster(config: OutlierDetection, hosts: u8) -> Arc<Cluster> {
    let addresses: Vec<(SocketAddr, u32)> = (1..=hosts)
        .map(|last| (SocketAddr::from(([10, 0, 0, last], 80)), 1))
        .collect();
    let protocol = UpstreamProtocol::Http1(Http1Options::default());
    let mut cluster = testing::config(&addresses, protocol);
    cluster.outlier_detection = Some(Arc::new(config));
    testing::cluster(cluster)
}

fn detector(cluster: &Cluster) -> &Detector {
    cluster.outlier.as_ref().unwrap()
}

fn host(cluster: &Cluster, index: usize) -> Arc<Host> {
    Arc::clone(&cluster.hosts.load().hosts[index])
}

fn report(cluster: &Cluster, index: usize, outcome: Outcome, times: usize) {
    for _ in 0..times {
        detector(cluster).report(&host(cluster, index), outcome);
    }
}

fn http(status: u16) -> Outcome {
    Outcome::Http(StatusCode::from_u16(status).unwrap())
}

/// Lets the main thread decide; the lines of the event log.
fn decide(
    cluster: &Cluster,
    dice: u64,
    decision: impl FnOnce(&Detector, &[Arc<Host>], &mut Court<'_>),
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut log = |host: &Host, event: &Event| lines.push(event.line("c", host, "T"));
    let set = cluster.hosts.load_full();
    let mut court = Court {
        now: Instant::now(),
        random: &mut || dice,
        log: &mut log,
        is_changed: false,
    };
    decision(detector(cluster), &set.hosts, &mut court);
    if court.is_changed {
        cluster.refresh_hosts();
    }
    lines
}

fn trips(cluster: &Cluster) -> Vec<String> {
    decide(cluster, 50, Detector::handle_trips)
}

fn sweep(cluster: &Cluster) -> Vec<String> {
    decide(cluster, 50, Detector::sweep)
}

fn ejected(cluster: &Cluster) -> Vec<usize> {
    let set = cluster.hosts.load();
    (0..set.hosts.len())
        .filter(|index| {
            let flags = set.hosts[*index].flags();
            flags.has(HealthFlags::FAILED_OUTLIER_CHECK)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn errors_in_a_row_eject() {
    let cluster = cluster(config(), 3);
    report(&cluster, 0, http(500), 2);
    report(&cluster, 0, http(404), 1);
    report(&cluster, 0, http(500), 2);
    assert!(trips(&cluster).is_empty());
    report(&cluster, 0, http(500), 1);
    assert_eq!(
        trips(&cluster),
        [concat!(
            r#"{"type":"CONSECUTIVE_5XX","timestamp":"T","cluster_name":"c","#,
            r#""upstream_url":"10.0.0.1:80","action":"EJECT","num_ejections":1,"enforced":true,"#,
            r#""eject_consecutive_event":{}}"#,
            "\n"
        )]
    );
    assert_eq!(ejected(&cluster), [0]);
    let stats = &detector(&cluster).stats;
    assert_eq!(stats.active.value(), 1);
    assert_eq!(stats.enforced_total.value(), 1);
    assert_eq!(stats.old_consecutive_5xx.value(), 1);
    assert_eq!(cluster.hosts.load().healthy(), 2);
    assert_eq!(cluster.stats.membership_healthy.value(), 2);
    assert_eq!(cluster.stats.membership_change.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_enforced_is_only_logged() {
    let cluster = cluster(config(), 3);
    report(&cluster, 1, http(503), 2);
    let lines = trips(&cluster);
    assert!(lines[0].contains(r#""type":"CONSECUTIVE_GATEWAY_FAILURE""#));
    assert!(lines[0].contains(r#""num_ejections":0,"enforced":false"#));
    assert!(ejected(&cluster).is_empty());
}

#[tokio::test(start_paused = true)]
async fn local_failures_count_as_answers_unless_split() {
    let joined = cluster(config(), 3);
    report(&joined, 0, Outcome::LocalConnectFailed, 3);
    trips(&joined);
    assert_eq!(ejected(&joined), [0]);
    let mut split = config();
    split.split_external_local_origin_errors = true;
    let split = cluster(split, 3);
    report(&split, 0, Outcome::LocalConnectFailed, 1);
    report(&split, 0, Outcome::Connected, 1);
    report(&split, 0, Outcome::LocalTimeout, 1);
    assert!(trips(&split).is_empty());
    report(&split, 0, Outcome::LocalConnectFailed, 1);
    assert!(trips(&split)[0].contains("CONSECUTIVE_LOCAL_ORIGIN_FAILURE"));
    assert_eq!(ejected(&split), [0]);
}

#[tokio::test(start_paused = true)]
async fn grpc_statuses_count_as_in_http() {
    let cluster = cluster(config(), 3);
    report(&cluster, 0, Outcome::Grpc(5), 3);
    report(&cluster, 1, Outcome::Grpc(13), 3);
    trips(&cluster);
    assert_eq!(ejected(&cluster), [1]);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_percentage_is_ejected() {
    let try_all = |eject_one, percent, hosts| {
        let mut config = config();
        config.max_ejection_percent = percent;
        config.eject_one = eject_one;
        let cluster = cluster(config, hosts);
        for index in 0..usize::from(hosts) {
            report(&cluster, index, http(500), 3);
        }
        trips(&cluster);
        let overflow = detector(&cluster).stats.overflow.value();
        (ejected(&cluster).len(), overflow)
    };
    assert_eq!(try_all(EjectOne::Never, 10, 3), (0, 3));
    assert_eq!(try_all(EjectOne::OfSeveral, 10, 3), (1, 2));
    assert_eq!(try_all(EjectOne::OfSeveral, 10, 1), (0, 1));
    assert_eq!(try_all(EjectOne::Always, 10, 1), (1, 0));
    assert_eq!(try_all(EjectOne::Never, 50, 4), (2, 2));
}

/// The seconds after which the sweeps let the host be probed.
async fn time_away(cluster: &Cluster, index: usize) -> u64 {
    let start = Instant::now();
    while host(cluster, index).outlier.probe() == Probe::None {
        advance(Duration::from_secs(10)).await;
        sweep(cluster);
        assert!(start.elapsed() < Duration::from_secs(1000));
    }
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn one_request_decides_over_the_return() {
    let cluster = cluster(config(), 3);
    report(&cluster, 0, http(500), 3);
    trips(&cluster);
    assert!(cluster.hosts.load().probe().is_none());
    // 30 s, then 60 s, 90 s, 100 s at most; each failed probe sends it away again.
    for expected in [30, 60, 90, 100, 100] {
        assert_eq!(time_away(&cluster, 0).await, expected);
        let probed = Arc::clone(cluster.hosts.load().probe().unwrap());
        assert_eq!(probed.id, host(&cluster, 0).id);
        assert!(cluster.hosts.load().probe().is_none(), "one request only");
        report(&cluster, 0, http(500), 1);
        assert!(trips(&cluster)[0].contains(r#""action":"EJECT""#));
        assert_eq!(ejected(&cluster), [0]);
    }
    assert_eq!(time_away(&cluster, 0).await, 100);
    assert!(cluster.hosts.load().probe().is_some());
    report(&cluster, 0, http(200), 1);
    let lines = trips(&cluster);
    assert!(lines[0].contains(r#""secs_since_last_action":"100""#));
    assert!(lines[0].contains(r#""action":"UNEJECT","num_ejections":6,"enforced":false}"#));
    assert!(ejected(&cluster).is_empty());
    assert_eq!(detector(&cluster).stats.active.value(), 0);
    assert_eq!(cluster.hosts.load().healthy(), 3);
}

#[tokio::test(start_paused = true)]
async fn good_intervals_shorten_the_next_ejection() {
    let cluster = cluster(config(), 3);
    for expected in [30, 60, 30] {
        report(&cluster, 0, http(500), 3);
        trips(&cluster);
        assert_eq!(time_away(&cluster, 0).await, expected);
        assert!(cluster.hosts.load().probe().is_some());
        report(&cluster, 0, http(200), 1);
        trips(&cluster);
        if expected == 60 {
            (0..2).for_each(|_| drop(sweep(&cluster)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_given_up_is_sent_again() {
    let cluster = cluster(config(), 3);
    report(&cluster, 0, http(500), 3);
    trips(&cluster);
    time_away(&cluster, 0).await;
    assert!(cluster.hosts.load().probe().is_some());
    sweep(&cluster);
    assert!(cluster.hosts.load().probe().is_none());
    sweep(&cluster);
    assert!(cluster.hosts.load().probe().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_success_rate_far_below_the_others_ejects() {
    let cluster = cluster(config(), 3);
    for index in 0..3 {
        report(&cluster, index, http(200), 9);
    }
    report(&cluster, 0, http(200), 1);
    report(&cluster, 1, http(200), 1);
    // In a row would be too simple.
    for _ in 0..5 {
        report(&cluster, 2, http(500), 2);
        report(&cluster, 2, http(200), 1);
    }
    let lines = sweep(&cluster);
    // Rates 100, 100 and 58.3: mean 86.1, deviation 19.6.
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains(concat!(
            r#""eject_success_rate_event":{"host_success_rate":58,"#,
            r#""cluster_average_success_rate":86,"cluster_success_rate_ejection_threshold":66}"#
        )),
        "{lines:?}"
    );
    assert_eq!(ejected(&cluster), [2]);
    let averages = detector(&cluster).averages();
    assert!((averages.mean - 86.11).abs() < 0.01, "{averages:?}");
    assert!((host(&cluster, 2).outlier.success_rate() - 58.33).abs() < 0.01);
    // Without requests there is nothing to compare.
    sweep(&cluster);
    assert!((detector(&cluster).averages().mean + 1.0).abs() < f64::EPSILON);
    assert!((host(&cluster, 0).outlier.success_rate() + 1.0).abs() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_ejects_when_enforced() {
    let mut config = config();
    config.failure_percentage.enforcing = 100;
    config.success_rate.minimum_hosts = 100;
    config.consecutive_5xx.threshold = 0;
    let cluster = cluster(config, 3);
    for index in 0..2 {
        report(&cluster, index, http(200), 5);
    }
    report(&cluster, 2, http(500), 5);
    let lines = sweep(&cluster);
    assert!(lines[0].contains(r#""eject_failure_percentage_event":{"host_success_rate":0}"#));
    assert_eq!(ejected(&cluster), [2]);
}

#[tokio::test(start_paused = true)]
async fn jitter_is_added() {
    let mut config = config();
    config.max_ejection_time_jitter = Duration::from_secs(40);
    let cluster = cluster(config, 3);
    report(&cluster, 0, http(500), 3);
    // Of 100 it is 0, of 40,001 ms 25,000.
    decide(&cluster, 25_000, Detector::handle_trips);
    assert_eq!(time_away(&cluster, 0).await, 60);
}

#[tokio::test(start_paused = true)]
async fn the_task_decides_when_it_is_woken() {
    let cluster = cluster(config(), 3);
    let task = watch(&cluster, None).unwrap();
    report(&cluster, 0, http(500), 3);
    while ejected(&cluster).is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(cluster.hosts.load().probe().is_some());
    cluster.retire();
    task.await.unwrap();
}
