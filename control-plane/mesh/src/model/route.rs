//! HTTP routes.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;

use super::NamespacedName;

/// An HTTPRoute, every value checked.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// Namespace and name.
    pub id: NamespacedName,
    /// `metadata.creationTimestamp`; a route without one counts as younger than any with one.
    pub created: Option<Timestamp>,
    /// Whether `hostnames` are set: they mean nothing on routes of Services.
    pub hostnames: bool,
    /// What it attaches to.
    pub parents: Vec<ParentRef>,
    /// In order of definition.
    pub rules: Vec<Rule>,
    /// Set fields that this mesh does not implement. Any one makes the route not accepted.
    pub unsupported: Vec<Unsupported>,
}

/// A field that is valid but not implemented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where.
    pub path: String,
    /// What to do instead.
    pub message: String,
}

/// `spec.parentRefs[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// Empty for Services.
    pub group: Arc<str>,
    /// `Service`, or something that is not ours.
    pub kind: Arc<str>,
    /// The parent's name.
    pub id: NamespacedName,
    /// Only this port.
    pub port: Option<u16>,
    /// Only the port of this name.
    pub section: Option<Arc<str>>,
}

/// `spec.rules[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// One of these must match; never empty.
    pub matches: Vec<Match>,
    /// What is done to request and response.
    pub filters: Filters,
    /// Where requests go, by weight.
    pub backends: Vec<Backend>,
    /// The whole request, and one try; zero is no limit.
    pub request_timeout: Option<Duration>,
    /// One try towards a backend; zero is no limit.
    pub backend_timeout: Option<Duration>,
    /// What is tried again.
    pub retry: Option<Retry>,
}

/// `spec.rules[i].retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Status codes that are retried, besides errors of connections.
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: Option<u32>,
    /// About so long before the first retry, and longer before each further one.
    pub backoff: Option<Duration>,
}

/// All conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// On the path without query.
    pub path: PathMatch,
    /// The method.
    pub method: Option<Arc<str>>,
    /// On header values; names in lower case, unique.
    pub headers: Vec<ValueMatch>,
    /// On query parameters; names unique.
    pub query: Vec<ValueMatch>,
}

/// On a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The same path.
    Exact(Arc<str>),
    /// Whole path elements; without trailing slash, so `/` is empty.
    Prefix(Arc<str>),
    /// The whole path matches.
    Regex(Arc<str>),
}

/// A name and a condition on its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Of header or query parameter.
    pub name: Arc<str>,
    /// The condition.
    pub value: TextMatch,
}

/// On a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// The same.
    Exact(Arc<str>),
    /// The whole text matches.
    Regex(Arc<str>),
}

/// What a rule does besides choosing a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// `RequestHeaderModifier`.
    pub request_headers: HeaderChanges,
    /// `ResponseHeaderModifier`.
    pub response_headers: HeaderChanges,
    /// `RequestRedirect`.
    pub redirect: Option<Redirect>,
    /// `URLRewrite`.
    pub rewrite: Option<Rewrite>,
    /// `RequestMirror`, each.
    pub mirrors: Vec<Mirror>,
    /// `CORS`.
    pub cors: Option<Cors>,
}

/// `RequestMirror`: a copy of the request that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its place among the rule's filters.
    pub index: usize,
    /// Who gets the copies.
    pub target: BackendTarget,
    /// Of how many requests: `(numerator, denominator)`; the latter is not 0.
    pub fraction: (u32, u32),
}

/// `CORS`: which pages of other origins may use the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins, with `*` for any part of a host, or alone for every origin.
    pub allow_origins: Vec<Arc<str>>,
    /// Methods, or `*`.
    pub allow_methods: Vec<Arc<str>>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers that pages see, or `*`.
    pub expose_headers: Vec<Arc<str>>,
    /// Whether requests may carry cookies.
    pub allow_credentials: bool,
    /// For how many seconds an answer to a preflight request holds.
    pub max_age: u32,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Replace.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Append.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Remove.
    pub remove: Vec<Arc<str>>,
}

impl HeaderChanges {
    /// Both, `later` after `self`, as one change: what `later` removes or replaces is not added.
    #[must_use]
    pub fn then(&self, later: &Self) -> Self {
        let mut whole = Self::default();
        for Self { set, add, remove } in [self, later] {
            for name in remove {
                whole.forget(name);
                whole.remove.push(name.clone());
            }
            for (name, value) in set {
                whole.forget(name);
                whole.set.push((name.clone(), value.clone()));
            }
            whole.add.extend(add.iter().cloned());
        }
        whole
    }

    fn forget(&mut self, name: &Arc<str>) {
        self.set.retain(|(other, _)| other != name);
        self.add.retain(|(other, _)| other != name);
        self.remove.retain(|other| other != name);
    }
}

/// `RequestRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// The new host.
    pub hostname: Option<Arc<str>>,
    /// The new path.
    pub path: Option<PathChange>,
    /// The new port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// `URLRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new host.
    pub hostname: Option<Arc<str>>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Instead of the whole path.
    Full(Arc<str>),
    /// Instead of the matched prefix.
    Prefix(Arc<str>),
}

/// `spec.rules[i].backendRefs[j]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What it names.
    pub target: BackendTarget,
    /// Its share of all weights of the rule.
    pub weight: u32,
    /// `RequestHeaderModifier` of this backend.
    pub request_headers: HeaderChanges,
    /// `ResponseHeaderModifier` of this backend.
    pub response_headers: HeaderChanges,
}

/// What a backend reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTarget {
    /// Empty for Services.
    pub group: Arc<str>,
    /// `Service`, or something that is not ours.
    pub kind: Arc<str>,
    /// The backend's name.
    pub id: NamespacedName,
    /// Always set for Services.
    pub port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderChanges {
        let pairs = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(name, value)| (Arc::from(*name), Arc::from(*value)))
                .collect()
        };
        let remove = remove.iter().map(|name| Arc::from(*name)).collect();
        HeaderChanges {
            set: pairs(set),
            add: pairs(add),
            remove,
        }
    }

    #[test]
    fn the_later_change_of_a_header_decides() {
        let rule = changes(&[("a", "1"), ("b", "1")], &[("c", "1"), ("d", "1")], &["e"]);
        let backend = changes(&[("a", "2"), ("c", "2")], &[("b", "2"), ("e", "2")], &["d"]);
        let whole = rule.then(&backend);
        // `d` was added and is removed again; `e` is removed before it is added.
        assert_eq!(
            whole,
            changes(
                &[("b", "1"), ("a", "2"), ("c", "2")],
                &[("b", "2"), ("e", "2")],
                &["e", "d"],
            )
        );
        assert_eq!(rule.then(&HeaderChanges::default()), rule);
        assert_eq!(HeaderChanges::default().then(&rule), rule);
    }
}
