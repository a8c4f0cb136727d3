//! Envoy's tag extraction: which parts of a dotted name are labels.
//!
//! `cluster.x.upstream_rq_2xx` is `cluster.upstream_rq_xx` with the tags `envoy.response_code_class=2`
//! and `envoy.cluster_name=x`. Names of clusters may hold dots: scopes remember where they end.

/// Names of tags, as Prometheus shows them.
pub(super) const RESPONSE_CODE: &str = "envoy_response_code";
pub(super) const RESPONSE_CODE_CLASS: &str = "envoy_response_code_class";
pub(super) const CLUSTER_NAME: &str = "envoy_cluster_name";
pub(super) const HTTP_CONN_MANAGER_PREFIX: &str = "envoy_http_conn_manager_prefix";
pub(super) const LISTENER_ADDRESS: &str = "envoy_listener_address";
pub(super) const WORKER_ID: &str = "envoy_worker_id";
pub(super) const RDS_ROUTE_CONFIG: &str = "envoy_rds_route_config";
pub(super) const ROUTE: &str = "envoy_route";
pub(super) const VIRTUAL_HOST: &str = "envoy_virtual_host";

/// A name without its tags, and those, in the order in which Envoy prints them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tagged {
    pub(super) name: String,
    pub(super) tags: Vec<(&'static str, String)>,
}

/// Takes the tags out of the metric `rest` of the `entity` (a cluster, a listener …) of this kind.
pub(super) fn extract(kind: &str, entity: &str, rest: &str) -> Tagged {
    let mut tags = Vec::new();
    let rest = response_code(rest, &mut tags);
    let name = match kind {
        "cluster" => {
            tags.push((CLUSTER_NAME, entity.to_owned()));
            format!("cluster.{rest}")
        }
        "http" => http(entity, &rest, &mut tags),
        "listener" => listener(entity, &rest, &mut tags),
        "vhost" => virtual_host(entity, &rest, &mut tags),
        "listener_manager" | "server" | "thread_local_cluster_manager" => match worker_id(entity) {
            Some(id) => {
                tags.push((WORKER_ID, id.to_owned()));
                format!("{kind}.worker.{rest}")
            }
            None => format!("{kind}.{entity}.{rest}"),
        },
        "" => rest,
        _ => format!("{kind}.{entity}.{rest}"),
    };
    Tagged { name, tags }
}

/// `…_rq_200` and `…_rq_2xx`.
fn response_code(rest: &str, tags: &mut Vec<(&'static str, String)>) -> String {
    let Some((before, code)) = rest.rsplit_once("_rq_") else {
        return rest.to_owned();
    };
    match code.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {
            tags.push((RESPONSE_CODE, code.to_owned()));
            format!("{before}_rq")
        }
        [class @ b'1'..=b'5', b'x', b'x'] => {
            tags.push((RESPONSE_CODE_CLASS, char::from(*class).to_string()));
            format!("{before}_rq_xx")
        }
        _ => rest.to_owned(),
    }
}

fn http(prefix: &str, rest: &str, tags: &mut Vec<(&'static str, String)>) -> String {
    let mut name = format!("http.{rest}");
    // The names of route configurations may hold dots; the last part is the metric.
    if let Some((config, metric)) = rest
        .strip_prefix("rds.")
        .and_then(|below| below.rsplit_once('.'))
    {
        tags.push((RDS_ROUTE_CONFIG, config.to_owned()));
        name = format!("http.rds.{metric}");
    }
    tags.push((HTTP_CONN_MANAGER_PREFIX, prefix.to_owned()));
    name
}

/// Only addresses are labels: `listener.admin` stays as it is.
fn listener(address: &str, rest: &str, tags: &mut Vec<(&'static str, String)>) -> String {
    let mut rest = rest.to_owned();
    if let Some((prefix, metric)) = rest
        .strip_prefix("http.")
        .and_then(|below| below.rsplit_once('.'))
    {
        tags.push((HTTP_CONN_MANAGER_PREFIX, prefix.to_owned()));
        rest = format!("http.{metric}");
    } else if let Some((worker, metric)) = rest.split_once('.')
        && let Some(id) = worker_id(worker)
    {
        tags.push((WORKER_ID, id.to_owned()));
        rest = format!("worker.{metric}");
    }
    let is_address = address.contains('_')
        && address
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b'_' | b'[' | b']'));
    if !is_address {
        return format!("listener.{address}.{rest}");
    }
    tags.push((LISTENER_ADDRESS, address.to_owned()));
    format!("listener.{rest}")
}

/// `vhost.<host>.route.<route>.…`
fn virtual_host(name: &str, rest: &str, tags: &mut Vec<(&'static str, String)>) -> String {
    let mut rest = rest.to_owned();
    if let Some((route, metric)) = rest
        .strip_prefix("route.")
        .and_then(|below| below.rsplit_once('.'))
    {
        tags.push((ROUTE, route.to_owned()));
        rest = format!("route.{metric}");
    }
    tags.push((VIRTUAL_HOST, name.to_owned()));
    format!("vhost.{rest}")
}

fn worker_id(scope: &str) -> Option<&str> {
    let id = scope.strip_prefix("worker_")?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}
