//! The form of a case file.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::raw::Step;
use crate::upstream::Script;

/// What the placeholders of a case stand for in one run: `{{name}}` → text.
pub(super) type Places = BTreeMap<String, String>;

/// One case file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// One sentence: what the case shows.
    #[serde(rename = "about")]
    pub(super) _about: String,
    /// The whole bootstrap, instead of the parts below.
    pub(super) bootstrap: Option<Value>,
    /// Fields to add to, or replace in, the listener `main`.
    #[serde(default)]
    pub(super) listener: Map<String, Value>,
    /// The filter chains of `main`, in short: instead of one with an HTTP connection manager.
    #[serde(default)]
    pub(super) chains: Vec<Chain>,
    /// Listeners beside `main`, with chains in the same short form.
    #[serde(default)]
    pub(super) more_listeners: Vec<MoreListener>,
    /// Fields to add to, or replace in, the HTTP connection manager of `main`.
    #[serde(default)]
    pub(super) hcm: Map<String, Value>,
    /// Fields to add to the route configuration.
    #[serde(default)]
    pub(super) route_config: Map<String, Value>,
    /// The virtual hosts; or only `routes` of one for `*`.
    pub(super) virtual_hosts: Option<Value>,
    /// The routes of one virtual host for `*`.
    pub(super) routes: Option<Value>,
    /// Clusters besides `a`, `b` and `c`, which have one endpoint each.
    #[serde(default)]
    pub(super) clusters: Vec<Value>,
    /// Top-level fields to add to the bootstrap.
    #[serde(default)]
    pub(super) bootstrap_extra: Map<String, Value>,
    /// The access log's text format; `log_json` for a JSON format.
    pub(super) log: Option<String>,
    pub(super) log_json: Option<Value>,
    /// How many log lines to wait for; the number of requests by default, 0 not to compare.
    pub(super) log_lines: Option<usize>,
    /// Both proxies refuse the configuration; ours says each of these texts.
    pub(super) reject: Option<Vec<String>>,
    /// Files to write into `{{tmp}}` before the start.
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    /// Only Envoy serves this; ours refuses it and says each of these texts.
    pub(super) unsupported: Option<Vec<String>>,
    /// Both proxies have upstreams of the same addresses: for what is hashed.
    #[serde(default)]
    pub(super) same_upstreams: bool,
    /// What the upstream at `{{raw}}` answers, byte for byte.
    pub(super) raw_upstream: Option<String>,
    /// It goes on by sending back what comes, until the proxy closes.
    #[serde(default)]
    pub(super) raw_echo: bool,
    /// The requests, one after the other.
    #[serde(default)]
    pub(super) requests: Vec<Request>,
    /// Counters and gauges to compare at the end.
    #[serde(default)]
    pub(super) stats: Vec<String>,
    /// Admin replies to compare at the end.
    #[serde(default)]
    pub(super) admin: Vec<AdminCheck>,
    /// Differences that `docs/differences.md` explains.
    #[serde(default)]
    pub(super) expect_difference: Vec<ExpectedDifference>,
}

/// A filter chain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chain {
    #[serde(default)]
    pub(super) name: String,
    /// `filter_chain_match`
    #[serde(rename = "match")]
    pub(super) matches: Option<Value>,
    /// It is the `default_filter_chain`.
    #[serde(default)]
    pub(super) default: bool,
    /// Fields of a TCP proxy; else the chain has the case's connection manager.
    pub(super) tcp: Option<Map<String, Value>>,
}

/// A further listener.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MoreListener {
    pub(super) name: String,
    /// Fields to add, the address among them.
    #[serde(default)]
    pub(super) fields: Map<String, Value>,
    pub(super) chains: Vec<Chain>,
}

/// One step: usually a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// Shorthand for method GET and this path.
    pub(super) get: Option<String>,
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    /// `Host` or `:authority`; `test.local` by default.
    pub(super) host: Option<String>,
    /// Values are strings or lists of strings.
    #[serde(default)]
    pub(super) headers: Map<String, Value>,
    pub(super) body: Option<String>,
    pub(super) body_size: Option<usize>,
    #[serde(default)]
    pub(super) chunks: usize,
    #[serde(default)]
    pub(super) trailers: Vec<(String, String)>,
    #[serde(default)]
    pub(super) protocol: Protocol,
    /// Instead of a request: a conversation in raw bytes.
    pub(super) raw: Option<Vec<Step>>,
    /// Instead of a request: a conversation in bytes that are not HTTP; what came back is compared.
    pub(super) tcp: Option<Vec<Step>>,
    /// With `tcp` or `raw`: the client's own address.
    pub(super) from: Option<std::net::IpAddr>,
    /// With `tcp`: what Envoy sends back, a guard.
    pub(super) gives: Option<String>,
    /// Instead of a request: a POST to the admin endpoint.
    pub(super) admin_post: Option<String>,
    /// Instead of a request: replaces a file of `{{tmp}}` by a rename, as mounted volumes do.
    pub(super) write: Option<(String, String)>,
    /// Repeats the request until it gives this status: for changes that take effect a little later.
    pub(super) until_status: Option<u16>,
    /// Requests with the same name here share a connection.
    pub(super) conn: Option<String>,
    /// Which listener; `main` by default.
    pub(super) listener: Option<String>,
    /// What the upstream answers.
    pub(super) script: Option<Script>,
    /// Go on with the next step as soon as an upstream has received it.
    #[serde(default)]
    pub(super) background: bool,
    /// Send it that many times and compare only how often each upstream was chosen.
    pub(super) repeat: Option<usize>,
    /// With `repeat`: the share of each upstream.
    #[serde(default)]
    pub(super) share: BTreeMap<String, f64>,
    /// With `repeat`: the counts are equal, not only drawn from the same distribution.
    #[serde(default)]
    pub(super) exact: bool,
    /// The status that Envoy gives: guards against a case that shows something else than meant.
    pub(super) status: Option<u16>,
    /// The upstream that Envoy chooses, or `none`: the same guard.
    pub(super) to: Option<String>,
    /// How many requests the upstreams receive because of this one, the client's own included; the order
    /// in which they come is then not compared.
    pub(super) mirrored: Option<usize>,
    /// Bounds for the time until the end of the reply, on both proxies.
    pub(super) min_ms: Option<u64>,
    pub(super) max_ms: Option<u64>,
    /// Compare which of the upstream's connections carried it.
    #[serde(default)]
    pub(super) upstream_connection: bool,
    /// Compare whether the client's connection was closed afterwards (needs `conn`).
    #[serde(default)]
    pub(super) closed_after: bool,
}

/// How a request travels to the proxy.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    #[default]
    H1,
    H2,
}

/// One GET on the admin endpoint and what to compare of it, besides status and content type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminCheck {
    pub(super) path: String,
    /// Compare the whole body as text.
    #[serde(default)]
    pub(super) body: bool,
    /// Compare the lines that match this expression.
    pub(super) lines: Option<String>,
    /// JSON pointers to compare; `*` takes every element, and the values are then a sorted list.
    #[serde(default)]
    pub(super) pointers: Vec<String>,
    /// JSON pointers of objects whose sets of keys to compare.
    #[serde(default)]
    pub(super) keys: Vec<String>,
}

/// A difference that the case knows of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedDifference {
    /// A heading of `docs/differences.md`.
    pub(super) id: String,
    /// Where: the start of the place that the report prints.
    pub(super) at: String,
}

impl Case {
    /// Fills the placeholders and reads the case.
    pub(super) fn parse(text: &str, places: &Places) -> Result<Self> {
        let mut filled = text.to_owned();
        for (name, value) in places {
            filled = filled.replace(&format!("{{{{{name}}}}}"), value);
        }
        if places.is_empty() {
            // Only the form is asked for: any number is a port.
            filled = regex::Regex::new(r"\{\{\w+\}\}")?
                .replace_all(&filled, "1")
                .into_owned();
        }
        // By way of JSON, where an enum's variant is a key and not a YAML tag.
        let value: Value = serde_norway::from_str(&filled).context("not YAML")?;
        serde_path_to_error::deserialize(value).context("not a case")
    }
}

impl Request {
    /// Whether the step goes to a listener, and so gives an access-log line.
    pub(super) fn is_traffic(&self) -> bool {
        self.admin_post.is_none() && self.write.is_none()
    }
}
