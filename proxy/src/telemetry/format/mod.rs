//! Evaluates parsed formats ([`crate::config::format`]) for access logs, headers and span names.
//!
//! Writes into a buffer that the caller reuses; nothing is allocated in the steady state.

mod grpc;
mod operator;
mod time;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::HOST, uri::Scheme};

pub(crate) use grpc::status as grpc_status;
pub(crate) use operator::observability_name;

use super::stream_info::StreamInfo;
use crate::config::format::{Format, HeaderField, HeaderOperand, Operator, PathSource, Piece};

/// What a format may look at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The stream.
    pub info: &'a StreamInfo,
    /// The request, if it was understood.
    pub request: Option<RequestHead<'a>>,
    /// The response's headers, once they are there. Its status is in `info`.
    pub response: Option<&'a HeaderMap>,
    /// The response's trailers.
    pub trailers: Option<&'a HeaderMap>,
}

/// The head of a request in the proxy's normal form: the authority is the `host` header.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a Method,
    /// `:path`, with the query.
    pub path: &'a str,
    /// `:scheme`.
    pub scheme: &'a str,
    /// Headers; at least those that the format needs.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The head of a request that is on its way.
    #[must_use]
    pub fn new(parts: &'a http::request::Parts, scheme: &'a Scheme) -> Self {
        Self {
            method: &parts.method,
            path: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
            scheme: scheme.as_str(),
            headers: &parts.headers,
        }
    }

    /// `:authority`.
    #[must_use]
    pub fn authority(&self) -> Option<&'a HeaderValue> {
        self.headers.get(HOST)
    }

    fn field(&self, field: &'a HeaderField) -> Option<&'a [u8]> {
        match field {
            HeaderField::Method => Some(self.method.as_str().as_bytes()),
            HeaderField::Scheme => Some(self.scheme.as_bytes()),
            HeaderField::Path => Some(self.path.as_bytes()),
            HeaderField::Authority => self.authority().map(HeaderValue::as_bytes),
            HeaderField::Name(name) => self.headers.get(name).map(HeaderValue::as_bytes),
            HeaderField::Status | HeaderField::Absent(_) => None,
        }
    }
}

/// The parts of a request that logs and spans need after it went upstream.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    method: Method,
    path: http::uri::PathAndQuery,
    scheme: Scheme,
    headers: HeaderMap,
}

impl RequestRecord {
    /// Keeps method, path, scheme and the headers of `needed`. Values are shared, not copied.
    #[must_use]
    pub fn new(parts: &http::request::Parts, scheme: &Scheme, needed: &[HeaderName]) -> Self {
        let mut headers = HeaderMap::with_capacity(needed.len());
        for name in needed {
            if let Some(value) = parts.headers.get(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        let slash = || http::uri::PathAndQuery::from_static("/");
        Self {
            method: parts.method.clone(),
            path: parts.uri.path_and_query().cloned().unwrap_or_else(slash),
            scheme: scheme.clone(),
            headers,
        }
    }

    /// As formats read it.
    #[must_use]
    pub fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.method,
            path: self.path.as_str(),
            scheme: self.scheme.as_str(),
            headers: &self.headers,
        }
    }
}

/// What is printed where an operator has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `-`, as in access logs.
    Dash,
    /// Nothing, as in headers and with `omit_empty_values`.
    Empty,
}

/// Appends the text of `format` to `out`.
pub fn write(format: &Format, cx: &Context<'_>, missing: Missing, out: &mut Vec<u8>) {
    for piece in format.pieces() {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Operator(operator, length) => {
                if !write_operator(operator, *length, cx, out) && missing == Missing::Dash {
                    out.push(b'-');
                }
            }
        }
    }
}

/// Appends an operator's value, cut to `length`; false if there is none.
fn write_operator(
    operator: &Operator,
    length: Option<usize>,
    cx: &Context<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let written = operator::write(operator, cx, out);
    if let Some(length) = length {
        out.truncate(start.saturating_add(length));
    }
    written
}

/// A format of one operator, as JSON gives it a type.
#[derive(Clone, Copy, Debug)]
pub enum Lone<'a> {
    /// A number: it is written without quotes.
    Number(&'a Operator),
    /// Text.
    Text(&'a Operator, Option<usize>),
}

/// The operator, if the format is nothing else.
#[must_use]
pub fn lone_operator(format: &Format) -> Option<Lone<'_>> {
    match format.pieces() {
        [Piece::Operator(operator, _)] if operator::is_number(operator) => {
            Some(Lone::Number(operator))
        }
        [Piece::Operator(operator, length)] => Some(Lone::Text(operator, *length)),
        _ => None,
    }
}

impl Lone<'_> {
    /// Appends the bare value (no quotes, no escapes); false if there is none.
    pub fn write(&self, cx: &Context<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Number(operator) => write_operator(operator, None, cx, out),
            Self::Text(operator, length) => write_operator(operator, *length, cx, out),
        }
    }
}

/// Names of the headers that formats read.
#[derive(Clone, Debug, Default)]
pub struct NeededHeaders {
    /// Of the request.
    pub request: Vec<HeaderName>,
    /// Of the response.
    pub response: Vec<HeaderName>,
    /// Of the response's trailers.
    pub trailers: Vec<HeaderName>,
}

impl NeededHeaders {
    /// Adds what `format` reads.
    pub fn add(&mut self, format: &Format) {
        for operator in format.operators() {
            match operator {
                Operator::Request(operand) | Operator::RequestWithoutQuery(operand) => {
                    add_operand(&mut self.request, operand);
                }
                Operator::Response(operand) => add_operand(&mut self.response, operand),
                Operator::Trailer(operand) => add_operand(&mut self.trailers, operand),
                Operator::Path(_, PathSource::Original | PathSource::OriginalOrPath) => {
                    add_name(&mut self.request, &operator::ORIGINAL_PATH);
                }
                Operator::RequestedServerName { host: true } => add_name(&mut self.request, &HOST),
                Operator::GrpcStatus(_) => self.add_grpc_status(),
                _ => {}
            }
        }
    }

    /// Adds what a gRPC status is read from.
    pub fn add_grpc_status(&mut self) {
        add_name(&mut self.request, &http::header::CONTENT_TYPE);
        add_name(&mut self.response, &grpc::STATUS);
        add_name(&mut self.trailers, &grpc::STATUS);
    }

    /// Adds what others need.
    pub fn merge(&mut self, other: &Self) {
        other
            .request
            .iter()
            .for_each(|name| add_name(&mut self.request, name));
        other
            .response
            .iter()
            .for_each(|name| add_name(&mut self.response, name));
        other
            .trailers
            .iter()
            .for_each(|name| add_name(&mut self.trailers, name));
    }

    /// Adds a request header.
    pub fn add_request(&mut self, name: &HeaderName) {
        add_name(&mut self.request, name);
    }
}

fn add_operand(names: &mut Vec<HeaderName>, operand: &HeaderOperand) {
    for field in [Some(&operand.name), operand.alternative.as_ref()]
        .into_iter()
        .flatten()
    {
        match field {
            HeaderField::Name(name) => add_name(names, name),
            HeaderField::Authority => add_name(names, &HOST),
            HeaderField::Method
            | HeaderField::Scheme
            | HeaderField::Path
            | HeaderField::Status
            | HeaderField::Absent(_) => {}
        }
    }
}

fn add_name(names: &mut Vec<HeaderName>, name: &HeaderName) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}

#[cfg(test)]
mod tests;
