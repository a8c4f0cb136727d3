//! The filters of a connection manager, and the way of one stream through them.

use std::sync::Arc;

use http::request::Parts;
use smallvec::SmallVec;

use super::{Factory, FilterBuild, Flow, Overrides, State, overrides::NameId};
use crate::{
    config::http_connection_manager,
    http::{LocalReply, Response, StreamCx},
};

/// The filters of a connection manager, built once.
#[derive(Debug, Default)]
pub struct Factories(Box<[Instance]>);

/// One filter of the chain.
#[derive(Debug)]
struct Instance {
    name: NameId,
    /// Off unless a route's settings switch it on.
    is_disabled: bool,
    factory: Factory,
}

impl Factories {
    /// Of the filters before the router.
    #[must_use]
    pub fn new(filters: &[http_connection_manager::HttpFilter], build: FilterBuild<'_>) -> Self {
        let instances = filters.iter().filter_map(|filter| {
            Some(Instance {
                name: NameId::of(&filter.name),
                is_disabled: filter.is_disabled,
                factory: Factory::new(
                    &filter.config,
                    FilterBuild {
                        is_disabled: filter.is_disabled,
                        ..build
                    },
                )?,
            })
        });
        Self(instances.collect())
    }
}

/// The way of one stream through the filters. Nothing is allocated for it unless a chain has more
/// filters than have room here.
#[derive(Debug, Default)]
pub struct Chain {
    states: SmallVec<[State; 6]>,
    overrides: Option<Arc<Overrides>>,
    has_begun: bool,
    /// The response's head was on its way: it passes once.
    has_response: bool,
}

impl Chain {
    /// Decides which filters are on, by the settings of the route that was found.
    pub fn begin(&mut self, factories: &Factories, overrides: Option<&Arc<Overrides>>) {
        if std::mem::replace(&mut self.has_begun, true) || factories.0.is_empty() {
            return;
        }
        self.overrides = overrides.cloned();
        for instance in &factories.0 {
            let is_disabled = overrides
                .and_then(|overrides| overrides.of(instance.name))
                .map_or(instance.is_disabled, |(is_disabled, _)| is_disabled);
            self.states.push(if is_disabled {
                State::Skipped
            } else {
                instance.factory.state()
            });
        }
    }

    /// Passes the request's head through the filters in order.
    ///
    /// # Errors
    /// The answer of a filter.
    pub async fn request_headers(
        &mut self,
        factories: &Factories,
        head: &mut Parts,
        cx: &mut StreamCx,
    ) -> Result<(), LocalReply> {
        for (instance, state) in factories.0.iter().zip(&mut self.states) {
            let overrides = self.overrides.as_deref();
            let flow = instance
                .factory
                .request_headers(state, overrides, instance.name, head, cx);
            settle(flow, cx).await?;
        }
        Ok(())
    }

    /// Passes the response's head through the filters in reverse order, once.
    ///
    /// # Errors
    /// The answer of a filter.
    pub async fn response_headers(
        &mut self,
        factories: &Factories,
        response: &mut Response,
        cx: &mut StreamCx,
    ) -> Result<(), LocalReply> {
        if std::mem::replace(&mut self.has_response, true) {
            return Ok(());
        }
        for (instance, state) in factories.0.iter().zip(&mut self.states).rev() {
            let overrides = self.overrides.as_deref();
            let name = instance.name;
            let flow = instance
                .factory
                .response_headers(state, overrides, name, response, cx);
            settle(flow, cx).await?;
        }
        Ok(())
    }
}

async fn settle(mut flow: Flow, cx: &mut StreamCx) -> Result<(), LocalReply> {
    loop {
        match flow {
            Flow::Continue => return Ok(()),
            Flow::Reply(reply) => return Err(reply),
            Flow::Keep(kept) => {
                cx.keep(kept);
                return Ok(());
            }
            Flow::Wait(future) => flow = future.await,
        }
    }
}
