//! Counters by response code: `cluster.<name>.upstream_rq_<code>` and friends, and the same for
//! internal and external requests.

use std::{sync::OnceLock, time::Duration};

use http::StatusCode;

use crate::telemetry::stats::{Counter, Histogram, Scope, Unit};

/// Codes whose counters are found without a look-up by name.
const KNOWN: usize = 12;

/// Response-code statistics of one cluster; counters are made when first needed, as in Envoy.
#[derive(Debug)]
pub struct CodeStats {
    all: Group,
    internal: Group,
    external: Group,
    /// Answers that were not passed on because of a retry.
    retried: Group,
}

#[derive(Debug)]
struct Group {
    scope: Scope,
    completed: OnceLock<Counter>,
    classes: [OnceLock<Counter>; 5],
    codes: [OnceLock<(u16, Counter)>; KNOWN],
    time: OnceLock<Histogram>,
}

impl CodeStats {
    /// Below `scope` (`cluster.<name>`).
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        Self {
            all: Group::new(scope.clone()),
            internal: Group::new(scope.scope("internal")),
            external: Group::new(scope.scope("external")),
            retried: Group::new(scope.scope("retry")),
        }
    }

    /// Counts a response, or what stands for one.
    pub fn count(&self, code: StatusCode, is_internal: bool) {
        self.all.count(code);
        self.of(is_internal).count(code);
    }

    /// Counts a response that is not passed on: the request is tried again.
    pub fn count_retried(&self, code: StatusCode) {
        self.retried.count(code);
    }

    /// Notes the time from the end of the request to the end of the response.
    pub fn time(&self, time: Duration, is_internal: bool) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.all.time(millis);
        self.of(is_internal).time(millis);
    }

    fn of(&self, is_internal: bool) -> &Group {
        if is_internal {
            &self.internal
        } else {
            &self.external
        }
    }
}

impl Group {
    fn new(scope: Scope) -> Self {
        Self {
            scope,
            completed: OnceLock::new(),
            classes: [const { OnceLock::new() }; 5],
            codes: [const { OnceLock::new() }; KNOWN],
            time: OnceLock::new(),
        }
    }

    fn count(&self, code: StatusCode) {
        self.completed
            .get_or_init(|| self.scope.counter("upstream_rq_completed"))
            .inc();
        let class = usize::from(code.as_u16() / 100);
        if let Some(counter) = class
            .checked_sub(1)
            .and_then(|index| self.classes.get(index))
        {
            counter
                .get_or_init(|| self.scope.counter(&format!("upstream_rq_{class}xx")))
                .inc();
        }
        self.code(code.as_u16());
    }

    fn code(&self, code: u16) {
        let make = || self.scope.counter(&format!("upstream_rq_{code}"));
        for slot in &self.codes {
            let (found, counter) = slot.get_or_init(|| (code, make()));
            if *found == code {
                counter.inc();
                return;
            }
        }
        make().inc();
    }

    fn time(&self, millis: u64) {
        let make = || self.scope.histogram("upstream_rq_time", Unit::Milliseconds);
        self.time.get_or_init(make).record(millis);
    }
}
