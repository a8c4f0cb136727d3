//! The macro that makes the sums over all filters.

/// Makes, of `Name: module` for each filter: the configurations [`Config`](super::Config) and
/// [`RouteConfig`](super::RouteConfig) with their conversion by type URL, the run-time objects
/// `Factory` and [`RouteFilter`](super::RouteFilter), the per-stream `State`, and the dispatch to
/// [`HttpFilter`](super::HttpFilter).
macro_rules! http_filters {
    ($($name:ident: $module:ident,)*) => {
        /// Configuration of one HTTP filter.
        #[derive(Clone, Debug)]
        pub enum Config {
            /// `envoy.filters.http.router`: the end of every chain.
            Router,
            $(#[doc = concat!("[`", stringify!($module), "`]")] $name(std::sync::Arc<$module::Config>),)*
        }

        impl Config {
            /// The configuration in `typed_config`; none if no filter has this type.
            pub fn from_any(
                cx: &$crate::convert::Cx<'_>,
                any: &outrigger_proto::google::protobuf::Any,
            ) -> Option<Option<Self>> {
                use prost::Name as _;
                $(if any.type_url == <$module::Config as FilterConfig>::Proto::type_url() {
                    let config = cx
                        .any(any)
                        .and_then(|proto| <$module::Config as FilterConfig>::from_proto(cx, proto));
                    return Some(config.map(|config| Self::$name(std::sync::Arc::new(config))));
                })*
                None
            }
        }

        /// A per-route setting of one HTTP filter.
        #[derive(Clone, Debug)]
        pub enum RouteConfig {
            $(#[doc = concat!("[`", stringify!($module), "`]")] $name(std::sync::Arc<$module::RouteConfig>),)*
        }

        impl RouteConfig {
            /// The setting in `typed_per_filter_config`; none if no filter has this type.
            pub fn from_any(
                cx: &$crate::convert::Cx<'_>,
                any: &outrigger_proto::google::protobuf::Any,
            ) -> Option<Option<Self>> {
                use prost::Name as _;
                $(if any.type_url == <$module::Config as FilterConfig>::RouteProto::type_url() {
                    let config = cx
                        .any(any)
                        .and_then(|proto| <$module::Config as FilterConfig>::route_from_proto(cx, proto));
                    return Some(config.map(|config| Self::$name(std::sync::Arc::new(config))));
                })*
                $(if any.type_url == <$module::Config as FilterConfig>::Proto::type_url() {
                    let wanted = <$module::Config as FilterConfig>::RouteProto::type_url();
                    if wanted == outrigger_proto::google::protobuf::Empty::type_url() {
                        cx.error("this filter has no per-route settings");
                    } else {
                        cx.error(format!("per-route settings of this filter are a `{wanted}`"));
                    }
                    return Some(None);
                })*
                None
            }

            /// Whether a filter of this configuration reads the setting.
            #[must_use]
            pub fn is_for(&self, config: &Config) -> bool {
                match (self, config) {
                    $((Self::$name(_), Config::$name(_)) => true,)*
                    _ => false,
                }
            }
        }

        /// A filter of a connection manager at run time.
        #[derive(Debug)]
        enum Factory {
            $($name($module::Filter),)*
        }

        /// The run-time object of a per-route setting.
        #[derive(Debug)]
        pub enum RouteFilter {
            $(#[doc = concat!("[`", stringify!($module), "`]")] $name($module::Route),)*
        }

        $(impl RouteObject for $module::Route {
            fn of(object: &RouteFilter) -> Option<&Self> {
                #[allow(irrefutable_let_patterns, reason = "there may be only one filter")]
                if let RouteFilter::$name(object) = object {
                    Some(object)
                } else {
                    None
                }
            }
        })*

        impl RouteFilter {
            #[allow(unreachable_code, reason = "some filters have no per-route settings")]
            fn new(config: &RouteConfig, build: RouteBuild<'_>) -> Self {
                match config {
                    $(RouteConfig::$name(config) => Self::$name($module::Route::new(config, build)),)*
                }
            }
        }

        /// What one stream keeps for one filter.
        #[derive(Debug)]
        enum State {
            /// The filter is disabled for the stream.
            Skipped,
            $($name(<$module::Filter as HttpFilter>::State),)*
        }

        impl Factory {
            /// None for the router.
            fn new(config: &Config, build: FilterBuild<'_>) -> Option<Self> {
                match config {
                    Config::Router => None,
                    $(Config::$name(config) => Some(Self::$name($module::Filter::new(config, build))),)*
                }
            }

            fn state(&self) -> State {
                match self {
                    $(Self::$name(_) => State::$name(Default::default()),)*
                }
            }

            fn request_headers(
                &self,
                state: &mut State,
                overrides: Option<&Overrides>,
                name: NameId,
                head: &mut http::request::Parts,
                stream: &mut StreamCx,
            ) -> Flow {
                match (self, state) {
                    $((Self::$name(filter), State::$name(state)) => {
                        filter.request_headers(head, &mut FilterCx { stream, state, overrides, name })
                    })*
                    _ => Flow::Continue,
                }
            }

            fn response_headers(
                &self,
                state: &mut State,
                overrides: Option<&Overrides>,
                name: NameId,
                response: &mut Response,
                stream: &mut StreamCx,
            ) -> Flow {
                match (self, state) {
                    $((Self::$name(filter), State::$name(state)) => {
                        filter.response_headers(response, &mut FilterCx { stream, state, overrides, name })
                    })*
                    _ => Flow::Continue,
                }
            }
        }
    };
}
