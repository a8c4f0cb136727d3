//! HTTP filters: the registry, and the chain that a stream passes.
//!
//! A filter is a folder with its configuration and its per-stream state, and one line in
//! `http_filters!` below. The line makes a variant of the configuration and of the running filter, so
//! that a call of a filter is a `match`, not a virtual call. The router is not a filter here: it is
//! where every chain ends.

use std::fmt;

use futures_util::future::LocalBoxFuture;
use http::request::Parts;

use crate::{
    config::http_connection_manager,
    http::{LocalReply, Response, StreamCx},
    telemetry::stream_info::StreamInfo,
};

/// What a filter does with a message on its way through the chain. Made anew for each stream.
pub trait HttpFilter {
    /// The request's head, before the router chooses an upstream.
    fn request_headers(&mut self, head: &mut Parts, cx: &mut StreamCx) -> Flow {
        let _ = (head, cx);
        Flow::Continue
    }

    /// The response's head.
    fn response_headers(&mut self, response: &mut Response, cx: &mut StreamCx) -> Flow {
        let _ = (response, cx);
        Flow::Continue
    }

    /// The stream is over.
    fn finish(&mut self, info: &StreamInfo) {
        let _ = info;
    }
}

/// How a stream goes on after a filter.
pub enum Flow {
    /// With the next one.
    Continue,
    /// With this answer; no later filter sees the request.
    Reply(LocalReply),
    /// With what the future says. Only who waits allocates.
    Wait(LocalBoxFuture<'static, Self>),
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reply(reply) => f.debug_tuple("Reply").field(reply).finish(),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

impl Flow {
    async fn settle(mut self) -> Result<(), LocalReply> {
        loop {
            match self {
                Self::Continue => return Ok(()),
                Self::Reply(reply) => return Err(reply),
                Self::Wait(future) => self = future.await,
            }
        }
    }
}

macro_rules! http_filters {
    ($($(#[$meta:meta])* $name:ident: $module:ident,)*) => {
        /// Configuration of one HTTP filter.
        #[derive(Clone, Debug)]
        pub enum Config {
            /// `envoy.filters.http.router`: the end of every chain.
            Router,
            $($(#[$meta])* #[doc = concat!("[`", stringify!($module), "`]")] $name($module::Config),)*
        }

        /// A filter at work on one stream.
        #[derive(Debug)]
        enum Filter {
            $($(#[$meta])* $name($module::Filter),)*
        }

        impl Filter {
            fn new(config: &Config) -> Option<Self> {
                match config {
                    Config::Router => None,
                    $($(#[$meta])* Config::$name(config) => {
                        Some(Self::$name($module::Filter::new(config)))
                    })*
                }
            }
        }

        impl HttpFilter for Filter {
            #[allow(unused_variables, reason = "the list may be empty")]
            fn request_headers(&mut self, head: &mut Parts, cx: &mut StreamCx) -> Flow {
                match *self {
                    $($(#[$meta])* Self::$name(ref mut filter) => filter.request_headers(head, cx),)*
                }
            }

            #[allow(unused_variables, reason = "the list may be empty")]
            fn response_headers(&mut self, response: &mut Response, cx: &mut StreamCx) -> Flow {
                match *self {
                    $($(#[$meta])* Self::$name(ref mut filter) => filter.response_headers(response, cx),)*
                }
            }

            #[allow(unused_variables, reason = "the list may be empty")]
            fn finish(&mut self, info: &StreamInfo) {
                match *self {
                    $($(#[$meta])* Self::$name(ref mut filter) => filter.finish(info),)*
                }
            }
        }
    };
}

http_filters! {}

/// The filters of a connection manager, from which each stream makes its chain.
#[derive(Debug, Default)]
pub struct Factories {
    configs: Box<[Config]>,
}

impl Factories {
    /// Of the filters before the router.
    #[must_use]
    pub fn new(filters: &[http_connection_manager::HttpFilter]) -> Self {
        let configs = filters
            .iter()
            .map(|filter| &filter.config)
            .filter(|config| !matches!(config, Config::Router))
            .cloned()
            .collect();
        Self { configs }
    }
}

/// The filters of one stream. Without filters it is an empty vector: no allocation, no call.
#[derive(Debug)]
pub struct Chain {
    filters: Vec<Filter>,
    /// How many have seen the request; the response passes only those.
    entered: usize,
}

impl Chain {
    /// A new chain.
    #[must_use]
    pub fn new(factories: &Factories) -> Self {
        Self {
            filters: factories.configs.iter().filter_map(Filter::new).collect(),
            entered: 0,
        }
    }

    /// Passes the request's head through the filters in order.
    ///
    /// # Errors
    /// The answer of a filter.
    pub async fn request_headers(
        &mut self,
        head: &mut Parts,
        cx: &mut StreamCx,
    ) -> Result<(), LocalReply> {
        for filter in &mut self.filters {
            self.entered += 1;
            filter.request_headers(head, cx).settle().await?;
        }
        Ok(())
    }

    /// Passes the response's head through the filters in reverse order.
    ///
    /// # Errors
    /// The answer of a filter.
    pub async fn response_headers(
        &mut self,
        response: &mut Response,
        cx: &mut StreamCx,
    ) -> Result<(), LocalReply> {
        for filter in self.filters.iter_mut().take(self.entered).rev() {
            filter.response_headers(response, cx).settle().await?;
        }
        Ok(())
    }

    /// Tells the filters that the stream is over.
    pub fn finish(&mut self, info: &StreamInfo) {
        for filter in &mut self.filters {
            filter.finish(info);
        }
    }
}
