//! The table of endpoints: paths, methods, help.

use std::fmt::Write;

use http::{HeaderMap, Method, StatusCode, Uri};

use super::{
    Command, Context, bulkheads, circuit_breakers, clusters, config_dump, listeners, query::Query,
    serve::Reply, server, stats,
};

/// One endpoint.
struct Endpoint {
    path: &'static str,
    help: &'static str,
    /// It changes something: POST only.
    is_mutating: bool,
    parameters: &'static [(&'static str, &'static str)],
}

const fn read(
    path: &'static str,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
) -> Endpoint {
    Endpoint {
        path,
        help,
        is_mutating: false,
        parameters,
    }
}

const fn write(
    path: &'static str,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
) -> Endpoint {
    Endpoint {
        path,
        help,
        is_mutating: true,
        parameters,
    }
}

const ENDPOINTS: &[Endpoint] = &[
    read("/", "Admin home page", &[]),
    read(
        "/bulkheads",
        "bulkheads: limits, places in use, who fills them",
        &[("format", "File format to use; One of (text, json)")],
    ),
    read("/certs", "print certs on machine", &[]),
    read(
        "/circuit_breakers",
        "circuit breakers: limits, what is used, when they last refused",
        &[
            ("format", "File format to use; One of (text, json)"),
            (
                "filter",
                "Regular expression for filtering clusters by name",
            ),
        ],
    ),
    read(
        "/clusters",
        "upstream cluster status",
        &[
            ("format", "File format to use; One of (text, json)"),
            (
                "filter",
                "Regular expression for filtering clusters by name",
            ),
        ],
    ),
    read(
        "/config_dump",
        "dump current configs",
        &[
            ("resource", "The resource to dump"),
            (
                "mask",
                "The mask to apply. With resource, it is applied to each element",
            ),
            (
                "name_regex",
                "Dump only the resources whose names match the regular expression",
            ),
            ("include_eds", "Dump also endpoints"),
        ],
    ),
    write(
        "/drain_listeners",
        "drain listeners",
        &[
            (
                "graceful",
                "Enter a graceful drain period prior to closing listeners",
            ),
            (
                "skip_exit",
                "Drain the connections but never stop the listeners",
            ),
            (
                "inboundonly",
                "Drain only listeners whose traffic_direction is INBOUND",
            ),
        ],
    ),
    write(
        "/healthcheck/fail",
        "cause the server to fail health checks",
        &[],
    ),
    write(
        "/healthcheck/ok",
        "cause the server to pass health checks",
        &[],
    ),
    read("/help", "print out list of admin commands", &[]),
    read(
        "/hot_restart_version",
        "print the hot restart compatibility version",
        &[],
    ),
    read("/init_dump", "dump what the start waits for", &[]),
    read(
        "/listeners",
        "print listener info",
        &[("format", "File format to use; One of (text, json)")],
    ),
    write(
        "/logging",
        "query/change logging levels",
        &[(
            "level",
            "desired logging level; One of (trace, debug, info, warning, error, critical, off)",
        )],
    ),
    read("/memory", "print current allocation/heap usage", &[]),
    write(
        "/quitquitquit",
        "drain and exit the server; at once when asked twice",
        &[],
    ),
    read(
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
        &[],
    ),
    write("/reopen_logs", "reopen access logs", &[]),
    write("/reset_counters", "reset all counters to zero", &[]),
    read("/runtime", "print runtime values", &[]),
    read(
        "/server_info",
        "print server version/status information",
        &[],
    ),
    read(
        "/stats",
        "print server stats",
        &[
            (
                "usedonly",
                "Only include stats that have been written by system since restart",
            ),
            ("filter", "Regular expression for filtering stats"),
            ("invert_filter", "Invert the filter regex"),
            ("format", "Format to use; One of (text, json, prometheus)"),
            (
                "type",
                "Stat types to include; One of (All, Counters, Histograms, Gauges, TextReadouts)",
            ),
            (
                "histogram_buckets",
                "Histogram bucket display mode; One of (cumulative, disjoint, summary)",
            ),
        ],
    ),
    read(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            (
                "usedonly",
                "Only include stats that have been written by system since restart",
            ),
            ("filter", "Regular expression for filtering stats"),
            ("invert_filter", "Invert the filter regex"),
        ],
    ),
    read(
        "/stats/prometheus/merged",
        "print server stats in prometheus format, and the application's behind them",
        &[],
    ),
];

pub(super) async fn dispatch(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    context: &Context,
) -> Reply {
    if let Some(reply) = context.app.probe(method, uri.path(), headers).await {
        return reply;
    }
    let query = Query::new(uri.query());
    let path = match uri.path() {
        "/" => "/",
        path => path.trim_end_matches('/'),
    };
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        let help = format!("invalid path. {}", help());
        return Reply::new(StatusCode::NOT_FOUND, help);
    };
    if endpoint.is_mutating && method != Method::POST {
        let text = format!("Method {method} not allowed, POST required.");
        return Reply::new(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    match path {
        "/" | "/help" => Reply::text(help()),
        "/bulkheads" => bulkheads::show(query, context),
        "/circuit_breakers" => circuit_breakers::show(query, context),
        "/clusters" => clusters::show(query, context).await,
        "/config_dump" => config_dump::show(query, context).await,
        "/listeners" => listeners::show(query, context),
        "/stats" => stats::show(query, context),
        "/stats/prometheus" => stats::prometheus(query, context),
        "/stats/prometheus/merged" => {
            let own = stats::prometheus(Query::new(None), context).body;
            context.app.merged(own, headers).await
        }
        "/certs" => Reply::json(&serde_json::json!({"certificates": []})),
        "/runtime" => Reply::json(&serde_json::json!({"layers": [], "entries": {}})),
        "/hot_restart_version" => Reply::text("disabled"),
        "/init_dump" => server::init_dump(context).await,
        "/memory" => server::memory(),
        "/ready" => server::ready(context),
        "/server_info" => server::info(context),
        "/logging" => server::logging(query, context),
        "/healthcheck/fail" => server::health_check(context, true),
        "/healthcheck/ok" => server::health_check(context, false),
        "/drain_listeners" => {
            let command = Command::DrainListeners {
                graceful: query.has("graceful"),
                inbound_only: query.has("inboundonly"),
                skip_exit: query.has("skip_exit"),
            };
            server::command(context, command)
        }
        "/quitquitquit" => server::command(context, Command::Quit),
        "/reopen_logs" => {
            context.access_logs.reopen();
            Reply::text("OK\n")
        }
        "/reset_counters" => {
            context.registry.reset_counters();
            Reply::text("OK\n")
        }
        _ => Reply::new(StatusCode::NOT_FOUND, help()),
    }
}

fn help() -> String {
    let mut text = "admin commands are:\n".to_owned();
    for Endpoint {
        path,
        help,
        is_mutating,
        parameters,
    } in ENDPOINTS
    {
        let post = if *is_mutating { " (POST)" } else { "" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {path}{post}: {help}");
        for (name, help) in *parameters {
            let _infallible = writeln!(text, "      {name}: {help}");
        }
    }
    text
}
