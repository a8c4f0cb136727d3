//! Lines of the event log, as Envoy writes them (`envoy.data.cluster.v3.OutlierDetectionEvent`).

use std::fmt::Write;

use tokio::time::Instant;

use super::{judge::Rates, monitor::Kind};
use crate::upstream::Host;

/// One decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    kind: Kind,
    what: What,
    /// Since the last change in the other direction.
    seconds: Option<u64>,
    ejections: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Eject {
        is_enforced: bool,
        rates: Option<Rates>,
    },
    Uneject,
}

impl Event {
    /// What was just decided about `host`.
    pub(super) fn new(host: &Host, kind: Kind, what: What, now: Instant) -> Self {
        let since = match what {
            What::Eject { .. } => host.outlier.since_return(now),
            What::Uneject => host.outlier.since_ejection(now),
        };
        Self {
            kind,
            what,
            seconds: since.map(|since| since.as_secs()),
            ejections: host.outlier.ejections(),
        }
    }

    /// The line, with its end.
    pub(super) fn line(&self, cluster: &str, host: &Host, timestamp: &str) -> String {
        let mut line = format!(
            r#"{{"type":"{}","timestamp":"{timestamp}""#,
            self.kind.event_name()
        );
        if let Some(seconds) = self.seconds {
            // Writing to a String cannot fail.
            let _infallible = write!(line, r#","secs_since_last_action":"{seconds}""#);
        }
        let (action, is_enforced) = match self.what {
            What::Eject { is_enforced, .. } => ("EJECT", is_enforced),
            What::Uneject => ("UNEJECT", false),
        };
        let _infallible = write!(
            line,
            r#","cluster_name":{},"upstream_url":"{}","action":"{action}","num_ejections":{},"enforced":{is_enforced}"#,
            serde_json::Value::from(cluster),
            host.address,
            self.ejections,
        );
        if let What::Eject { rates, .. } = self.what {
            line.push_str(&detail(self.kind, rates));
        }
        line.push_str("}\n");
        line
    }
}

/// What only ejections of one kind have. Envoy's numbers are whole percents, cut off.
fn detail(kind: Kind, rates: Option<Rates>) -> String {
    let whole = |percent: f64| percent.clamp(0.0, 100.0).trunc();
    match (kind, rates) {
        (Kind::FailurePercentage | Kind::FailurePercentageLocalOrigin, rates) => {
            let rate = rates.map_or(0.0, |rates| rates.rate);
            format!(
                r#","eject_failure_percentage_event":{{"host_success_rate":{}}}"#,
                whole(rate)
            )
        }
        (
            _,
            Some(Rates {
                rate,
                averages: Some(averages),
            }),
        ) => format!(
            r#","eject_success_rate_event":{{"host_success_rate":{},"cluster_average_success_rate":{},"cluster_success_rate_ejection_threshold":{}}}"#,
            whole(rate),
            whole(averages.mean),
            whole(averages.threshold),
        ),
        _ => r#","eject_consecutive_event":{}"#.to_owned(),
    }
}
