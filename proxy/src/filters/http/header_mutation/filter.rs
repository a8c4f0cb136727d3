//! The filter at work.

use http::{HeaderMap, HeaderName, header::HOST, request::Parts};

use super::{Config, Mutation, RouteConfig};
use crate::{
    config::matcher::StringMatcher,
    filters::http::{FilterBuild, FilterCx, Flow, HttpFilter, RouteBuild},
    http::{Response, StreamCx},
    router::Addition,
    telemetry::format::{self, Context, Missing, NeededHeaders, RequestHead, RequestRecord},
};

/// The filter with its own changes.
#[derive(Debug)]
pub struct Filter {
    own: Route,
    most_specific_wins: bool,
}

/// The changes of one level.
#[derive(Debug)]
pub struct Route {
    request: Box<[Change]>,
    response: Box<[Change]>,
    /// Request headers that changes of the response read; none if they read nothing of the request.
    needed: Option<Box<[HeaderName]>>,
}

#[derive(Debug)]
enum Change {
    Remove(HeaderName),
    RemoveOnMatch(StringMatcher),
    Append(Addition),
}

impl Filter {
    /// Compiles the changes.
    #[must_use]
    pub fn new(config: &Config, _: FilterBuild<'_>) -> Self {
        Self {
            own: Route::compile(&config.mutations),
            most_specific_wins: config.most_specific_wins,
        }
    }

    /// The levels in the order in which they are applied.
    fn levels<'a>(&'a self, cx: &FilterCx<'a, Self>) -> impl Iterator<Item = &'a Route> + use<'a> {
        let mut routes = cx.routes();
        let forward = self.most_specific_wins;
        let next = std::iter::from_fn(move || match forward {
            true => routes.next(),
            false => routes.next_back(),
        });
        std::iter::once(&self.own).chain(next)
    }
}

impl Route {
    /// Compiles the changes.
    #[must_use]
    pub fn new(config: &RouteConfig, _: RouteBuild<'_>) -> Self {
        Self::compile(config)
    }

    fn compile(config: &RouteConfig) -> Self {
        let mut needed = NeededHeaders::default();
        let mut reads = false;
        let response: Box<[Change]> = config.response.iter().map(Change::compile).collect();
        for change in &response {
            if let Change::Append(addition) = change
                && let Some(format) = addition.format()
            {
                needed.add(format);
                reads = true;
            }
        }
        Self {
            request: config.request.iter().map(Change::compile).collect(),
            response,
            needed: reads.then(|| needed.request.into()),
        }
    }
}

impl Change {
    fn compile(mutation: &Mutation) -> Self {
        match mutation {
            Mutation::Remove(name) => Self::Remove(name.clone()),
            Mutation::RemoveOnMatch(matcher) => Self::RemoveOnMatch(matcher.clone()),
            Mutation::Append(addition) => Self::Append(Addition::compile(addition)),
        }
    }

    fn apply<M>(
        &self,
        message: &mut M,
        headers: impl Fn(&mut M) -> &mut HeaderMap,
        evaluate: impl Fn(&M, &crate::config::format::Format, &mut Vec<u8>),
    ) {
        match self {
            Self::Remove(name) => {
                headers(message).remove(name);
            }
            Self::RemoveOnMatch(matcher) => remove_matching(headers(message), matcher),
            Self::Append(addition) => addition.apply(message, headers, evaluate),
        }
    }
}

/// The authority is a pseudo-header and stays.
fn remove_matching(headers: &mut HeaderMap, matcher: &StringMatcher) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| **name != HOST && matcher.matches(name.as_str().as_bytes()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

impl HttpFilter for Filter {
    /// The request as changes of the response read it.
    type State = Option<Box<RequestRecord>>;
    type Route = Route;

    fn request_headers(&self, head: &mut Parts, cx: &mut FilterCx<'_, Self>) -> Flow {
        let mut needed: Option<Vec<HeaderName>> = None;
        for level in self.levels(cx) {
            for change in &level.request {
                let stream: &StreamCx = cx.stream;
                change.apply(
                    head,
                    |head| &mut head.headers,
                    |head, format, text| {
                        let context = Context {
                            info: &stream.info,
                            request: Some(RequestHead::new(head, &stream.scheme)),
                            response: None,
                            trailers: None,
                        };
                        format::write(format, &context, Missing::Empty, text);
                    },
                );
            }
            if let Some(names) = &level.needed {
                needed.get_or_insert_default().extend_from_slice(names);
            }
        }
        if let Some(needed) = needed {
            let record = RequestRecord::new(head, &cx.stream.scheme, &needed);
            *cx.state = Some(Box::new(record));
        }
        Flow::Continue
    }

    fn response_headers(&self, response: &mut Response, cx: &mut FilterCx<'_, Self>) -> Flow {
        for level in self.levels(cx) {
            for change in &level.response {
                let stream: &StreamCx = cx.stream;
                let request = cx.state.as_deref().or(stream.record.as_ref());
                change.apply(response, Response::headers_mut, |response, format, text| {
                    let context = Context {
                        info: &stream.info,
                        request: request.map(RequestRecord::head),
                        response: Some(response.headers()),
                        trailers: None,
                    };
                    format::write(format, &context, Missing::Empty, text);
                });
            }
        }
        Flow::Continue
    }
}
