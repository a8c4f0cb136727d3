//! `RequestMirror`.

use std::sync::Arc;

use gateway_api::experimental::httproutes as api;

use super::{Checks, check_reference, core_group, read_port};
use crate::model::{BackendTarget, Mirror, NamespacedName};

pub(super) fn read(
    mirror: api::HttpRouteRulesFiltersRequestMirror,
    index: usize,
    route: &NamespacedName,
    path: &str,
    checks: &mut Checks,
) -> Mirror {
    let api::HttpRouteRulesFiltersRequestMirror {
        backend_ref,
        fraction,
        percent,
    } = mirror;
    Mirror {
        index,
        target: read_target(backend_ref, route, &format!("{path}.backendRef"), checks),
        fraction: read_fraction(fraction, percent, path, checks),
    }
}

fn read_target(
    backend: api::HttpRouteRulesFiltersRequestMirrorBackendRef,
    route: &NamespacedName,
    path: &str,
    checks: &mut Checks,
) -> BackendTarget {
    let api::HttpRouteRulesFiltersRequestMirrorBackendRef {
        group,
        kind,
        name,
        namespace,
        port,
    } = backend;
    check_reference(&name, namespace.as_deref(), path, checks);
    let group = core_group(group.unwrap_or_default());
    let kind: Arc<str> = kind.map_or_else(|| Arc::from("Service"), Arc::from);
    if group.is_empty() && *kind == *"Service" && port.is_none() {
        checks.error(
            format!("{path}.port"),
            "a reference to a Service needs a port",
        );
    }
    let port = read_port(port, path, checks);
    let namespace = namespace.map_or_else(|| route.namespace.clone(), Arc::from);
    BackendTarget {
        group,
        kind,
        id: NamespacedName::new(namespace, name),
        port,
    }
}

/// All requests, unless said.
fn read_fraction(
    fraction: Option<api::HttpRouteRulesFiltersRequestMirrorFraction>,
    percent: Option<i32>,
    path: &str,
    checks: &mut Checks,
) -> (u32, u32) {
    match (fraction, percent) {
        (Some(_), Some(_)) => {
            checks.error(format!("{path}.percent"), "excludes fraction");
            (1, 1)
        }
        (None, None) => (1, 1),
        (None, Some(percent)) => {
            let checked = u32::try_from(percent)
                .ok()
                .filter(|percent| *percent <= 100);
            let Some(percent) = checked else {
                let message = format!("{percent} is not in 0..100");
                checks.error(format!("{path}.percent"), message);
                return (1, 1);
            };
            (percent, 100)
        }
        (Some(fraction), None) => {
            let api::HttpRouteRulesFiltersRequestMirrorFraction {
                denominator,
                numerator,
            } = fraction;
            let denominator = denominator.unwrap_or(100);
            let checked = u32::try_from(numerator)
                .ok()
                .zip(u32::try_from(denominator).ok().filter(|whole| *whole > 0));
            match checked {
                Some((numerator, denominator)) if numerator <= denominator => {
                    (numerator, denominator)
                }
                _ => {
                    let message = format!("{numerator} of {denominator} is no fraction");
                    checks.error(format!("{path}.fraction"), message);
                    (1, 1)
                }
            }
        }
    }
}
