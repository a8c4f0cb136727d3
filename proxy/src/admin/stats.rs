//! `/stats`, `/stats/prometheus`.

use http::StatusCode;
use regex::Regex;

use super::{Context, query::Query, serve::Reply};
use crate::telemetry::stats::render::{self, Filter, HistogramMode, KindFilter};

pub(super) fn show(query: Query<'_>, context: &Context) -> Reply {
    let filter = match filter(query) {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let mode = match query.value("histogram_buckets").as_deref() {
        None | Some("summary") => HistogramMode::Summary,
        Some("cumulative") => HistogramMode::Cumulative,
        Some("disjoint") => HistogramMode::Disjoint,
        Some(_) => {
            let usage = "usage: /stats?histogram_buckets=(cumulative|disjoint|summary)\n\n";
            return Reply::new(StatusCode::BAD_REQUEST, usage);
        }
    };
    context.stats.update(context);
    let samples = context.registry.snapshot();
    match query.value("format").as_deref() {
        None | Some("text") => Reply::text(render::text(&samples, &filter, mode)),
        Some("json") => Reply::raw_json(render::json(&samples, &filter).to_string()),
        Some("prometheus") => Reply::text(render::prometheus(&samples, &filter)),
        Some(_) => Reply::new(
            StatusCode::BAD_REQUEST,
            "usage: /stats?format=(json|prometheus|text)\n\n",
        ),
    }
}

pub(super) fn prometheus(query: Query<'_>, context: &Context) -> Reply {
    match filter(query) {
        Ok(filter) => {
            context.stats.update(context);
            Reply::text(render::prometheus(&context.registry.snapshot(), &filter))
        }
        Err(reply) => reply,
    }
}

fn filter(query: Query<'_>) -> Result<Filter, Reply> {
    let kind = match query.value("type").as_deref() {
        None | Some("All") => None,
        Some("Counters") => Some(KindFilter::Counters),
        Some("Gauges") => Some(KindFilter::Gauges),
        Some("Histograms") => Some(KindFilter::Histograms),
        Some("TextReadouts") => Some(KindFilter::TextReadouts),
        Some(_) => return Err(Reply::new(StatusCode::BAD_REQUEST, "invalid &type= param")),
    };
    Ok(Filter {
        regex: query.value("filter").map(|text| regex(&text)).transpose()?,
        is_inverted: query.has("invert_filter"),
        used_only: query.has("usedonly"),
        kind,
    })
}

/// Compiles a user's expression, with a bound on its size.
pub(super) fn regex(text: &str) -> Result<Regex, Reply> {
    regex::RegexBuilder::new(text)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| {
            Reply::new(
                StatusCode::BAD_REQUEST,
                format!("Invalid re2 regex: {error}"),
            )
        })
}
