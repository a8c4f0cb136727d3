//! Lines of the event log, as Envoy writes them (`envoy.data.core.v3.HealthCheckEvent`).

use std::time::SystemTime;

use super::session::Verdict;
use crate::{config::health_check::Checker, telemetry::access_log::EventLog, upstream::Host};

/// What happened to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    EjectUnhealthy(Verdict),
    AddHealthy { is_first: bool },
    Successful,
    Failure { verdict: Verdict, is_first: bool },
    Degraded,
    NoLongerDegraded,
}

impl Event {
    /// The line, with its end; fields are in the order of their numbers.
    pub(super) fn line(self, checker: &Checker, cluster: &str, host: &Host) -> String {
        let timestamp = EventLog::timestamp(SystemTime::now());
        let kind = match checker {
            Checker::Http(_) => "HTTP",
            Checker::Tcp(_) => "TCP",
            Checker::Grpc(_) => "GRPC",
        };
        let text = |text: &str| serde_json::Value::from(text);
        let address = format!(
            r#"{{"socket_address":{{"protocol":"TCP","address":"{}","port_value":{},"resolver_name":"","ipv4_compat":false,"network_namespace_filepath":""}}}}"#,
            host.address.ip(),
            host.address.port()
        );
        let locality = format!(
            r#"{{"region":{},"zone":{},"sub_zone":{}}}"#,
            text(&host.locality.region),
            text(&host.locality.zone),
            text(&host.locality.sub_zone)
        );
        let [before, after, last] = self.fields();
        format!(
            "{{\"health_checker_type\":\"{kind}\",\"host\":{address},\"cluster_name\":{}{before},\
             \"timestamp\":\"{timestamp}\"{after},\"locality\":{locality}{last}}}\n",
            text(cluster)
        )
    }

    /// What goes before the timestamp, behind it, and behind the locality.
    fn fields(self) -> [String; 3] {
        let none = String::new;
        match self {
            Self::EjectUnhealthy(verdict) => {
                let (kind, status) = failure(verdict);
                let event = format!(
                    r#","eject_unhealthy_event":{{"failure_type":"{kind}","http_status_code":{status}}}"#
                );
                [event, none(), none()]
            }
            Self::AddHealthy { is_first } => {
                let event = format!(r#","add_healthy_event":{{"first_check":{is_first}}}"#);
                [event, none(), none()]
            }
            Self::Failure { verdict, is_first } => {
                let (kind, status) = failure(verdict);
                let event = format!(
                    r#","health_check_failure_event":{{"failure_type":"{kind}","first_check":{is_first},"http_status_code":{status}}}"#
                );
                [none(), event, none()]
            }
            Self::Degraded => [none(), r#","degraded_healthy_host":{}"#.to_owned(), none()],
            Self::NoLongerDegraded => [
                none(),
                r#","no_longer_degraded_host":{}"#.to_owned(),
                none(),
            ],
            Self::Successful => [
                none(),
                none(),
                r#","successful_health_check_event":{}"#.to_owned(),
            ],
        }
    }
}

fn failure(verdict: Verdict) -> (&'static str, u16) {
    match verdict {
        Verdict::Failed { status, .. } => ("ACTIVE", status),
        Verdict::Passive => ("PASSIVE", 0),
        Verdict::TimedOut => ("NETWORK_TIMEOUT", 0),
        Verdict::Network | Verdict::Passed { .. } => ("NETWORK", 0),
    }
}
