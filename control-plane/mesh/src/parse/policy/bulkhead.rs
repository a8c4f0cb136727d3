//! `Bulkhead`.

use super::{Check, at_least_one, has_target, header_name, header_value, positive, within};
use crate::{
    model::policy::{BulkheadSpec, PerCaller, PriorityLanes, TargetKind},
    parse::Checks,
};

impl Check for BulkheadSpec {
    fn check(&self, checks: &mut Checks) {
        let Self {
            target_refs: _,
            max_concurrent,
            max_queued,
            queue_timeout,
            per_caller,
            priority,
            side,
        } = self;
        at_least_one(Some(*max_concurrent), "spec.maxConcurrent", checks);
        // As many as the proxy takes.
        within(Some(*max_queued), (0, 65_536), "spec.maxQueued", checks);
        positive(*queue_timeout, "spec.queueTimeout", checks);
        for (set, field) in [
            (queue_timeout.is_some(), "queueTimeout"),
            (priority.is_some(), "priority"),
        ] {
            if set && *max_queued == 0 {
                checks.error(format!("spec.{field}"), "needs maxQueued: nothing waits");
            }
        }
        if side.is_server() && has_target(self, TargetKind::HttpRoute) {
            checks.error(
                "spec.side",
                "an HTTPRoute is of the callers: only client is possible for it",
            );
        }
        if let Some(per_caller) = per_caller {
            check_per_caller(per_caller, *max_concurrent, checks);
        }
        if let Some(priority) = priority {
            check_priority(priority, checks);
        }
    }
}

fn check_per_caller(per_caller: &PerCaller, all: u32, checks: &mut Checks) {
    let PerCaller {
        header,
        source_address,
        identity,
        max_concurrent,
        max_tracked,
    } = per_caller;
    let flags = [(source_address, "sourceAddress"), (identity, "identity")];
    for (flag, field) in flags {
        if *flag == Some(false) {
            checks.error(
                format!("spec.perCaller.{field}"),
                "false means nothing: leave it out",
            );
        }
    }
    let set = [
        header.is_some(),
        source_address.is_some(),
        identity.is_some(),
    ];
    if set.into_iter().filter(|set| *set).count() != 1 {
        checks.error(
            "spec.perCaller",
            "exactly one of header, sourceAddress and identity must be set",
        );
    }
    if *identity == Some(true) {
        checks.error(
            "spec.perCaller.identity",
            "not supported yet: callers have no identity without mutual TLS",
        );
    }
    if let Some(header) = header {
        header_name(header, "spec.perCaller.header", checks);
    }
    at_least_one(*max_concurrent, "spec.perCaller.maxConcurrent", checks);
    if max_concurrent.is_some_and(|own| own > all) {
        checks.error(
            "spec.perCaller.maxConcurrent",
            "more than spec.maxConcurrent",
        );
    }
    within(
        *max_tracked,
        (1, 65_536),
        "spec.perCaller.maxTracked",
        checks,
    );
}

fn check_priority(priority: &PriorityLanes, checks: &mut Checks) {
    let PriorityLanes {
        header,
        lanes,
        default_lane,
    } = priority;
    header_name(header, "spec.priority.header", checks);
    within(
        Some(*default_lane),
        (0, 7),
        "spec.priority.defaultLane",
        checks,
    );
    if lanes.is_empty() || lanes.len() > 64 {
        checks.error(
            "spec.priority.lanes",
            format!("{} values; there must be 1 to 64", lanes.len()),
        );
    }
    for (value, lane) in lanes {
        let path = format!("spec.priority.lanes.{value}");
        header_value(value, &path, checks);
        within(Some(*lane), (0, 7), &path, checks);
    }
}
