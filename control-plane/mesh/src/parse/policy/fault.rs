//! `FaultPolicy`.

use super::{Check, at_least_one, header_match, positive, within};
use crate::{
    model::policy::{Abort, Delay, FaultSpec},
    parse::Checks,
};

impl Check for FaultSpec {
    fn check(&self, checks: &mut Checks) {
        let Self {
            target_refs: _,
            ttl,
            delay,
            abort,
            headers,
            max_active,
            life: _,
        } = self;
        positive(Some(*ttl), "spec.ttl", checks);
        if delay.is_none() && abort.is_none() {
            checks.error("spec", "at least one of delay and abort must be set");
        }
        if let Some(Delay {
            duration,
            percent: _,
        }) = delay
        {
            positive(Some(*duration), "spec.delay.duration", checks);
        }
        if let Some(Abort {
            http_status,
            grpc_status,
            percent: _,
        }) = abort
        {
            if http_status.is_some() == grpc_status.is_some() {
                checks.error(
                    "spec.abort",
                    "exactly one of httpStatus and grpcStatus must be set",
                );
            }
            within(*http_status, (200, 599), "spec.abort.httpStatus", checks);
            within(*grpc_status, (0, 16), "spec.abort.grpcStatus", checks);
        }
        for (index, one) in headers.iter().enumerate() {
            let path = format!("spec.headers[{index}]");
            header_match(one, &path, checks);
        }
        at_least_one(*max_active, "spec.maxActive", checks);
    }
}
