//! `ListenerFilter`.

use outrigger_proto::{
    envoy::{
        config::listener::v3::{ListenerFilter as Proto, listener_filter::ConfigType},
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
            original_src::v3::OriginalSrc, tls_inspector::v3::TlsInspector,
        },
    },
    google::protobuf::BoolValue,
};
use prost::Name;

use crate::{
    config::listener::ListenerFilter,
    convert::{Cx, u32_or},
    no_effect, unsupported,
};

/// Envoy's default.
const MAX_CLIENT_HELLO: u32 = 16 * 1024;

/// The filters of a listener.
pub(super) fn listener_filters(cx: &Cx<'_>, filters: Vec<Proto>) -> Vec<ListenerFilter> {
    filters
        .into_iter()
        .enumerate()
        .filter_map(|(index, filter)| listener_filter(&cx.index(index), filter))
        .collect()
}

fn listener_filter(cx: &Cx<'_>, filter: Proto) -> Option<ListenerFilter> {
    cx.converts::<Proto>();
    cx.refuses::<Proto>(&["config_discovery"]);
    cx.partly::<Proto>(
        "typed_config",
        "OriginalDst, TlsInspector, HttpInspector, OriginalSrc (towards ORIGINAL_DST clusters)",
    );
    let Proto {
        name: _,
        filter_disabled,
        config_type,
    } = filter;
    unsupported!(cx, Proto, [filter_disabled]);
    let at = cx.field("typed_config");
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            cx.field("config_discovery").error("not supported");
            return None;
        }
        None => {
            at.error("value is required");
            return None;
        }
    };
    if any.type_url == OriginalDst::type_url() {
        at.converts::<OriginalDst>();
        let OriginalDst {} = at.any(&any)?;
        Some(ListenerFilter::OriginalDst)
    } else if any.type_url == HttpInspector::type_url() {
        at.converts::<HttpInspector>();
        let HttpInspector {} = at.any(&any)?;
        Some(ListenerFilter::HttpInspector)
    } else if any.type_url == TlsInspector::type_url() {
        tls_inspector(&at, at.any(&any)?)
    } else if any.type_url == OriginalSrc::type_url() {
        at.converts::<OriginalSrc>();
        let OriginalSrc { bind_port, mark } = at.any(&any)?;
        unsupported!(at, OriginalSrc, [bind_port]);
        Some(ListenerFilter::OriginalSrc { mark })
    } else {
        at.error(format!(
            "`{}` is not a supported listener filter",
            any.type_url
        ));
        None
    }
}

fn tls_inspector(cx: &Cx<'_>, inspector: TlsInspector) -> Option<ListenerFilter> {
    cx.converts::<TlsInspector>();
    let TlsInspector {
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
        close_connection_on_client_hello_parsing_errors,
        max_client_hello_size,
    } = inspector;
    // `false` is what we do anyway.
    let is_wanted = |BoolValue { value }: &BoolValue| *value;
    let enable_ja3_fingerprinting = enable_ja3_fingerprinting.filter(is_wanted);
    let enable_ja4_fingerprinting = enable_ja4_fingerprinting.filter(is_wanted);
    unsupported!(
        cx,
        TlsInspector,
        [enable_ja3_fingerprinting, enable_ja4_fingerprinting]
    );
    no_effect!(
        cx,
        TlsInspector,
        "what is looked at stays in the socket",
        [initial_read_buffer_size]
    );
    Some(ListenerFilter::TlsInspector {
        max_client_hello_size: usize::try_from(u32_or(max_client_hello_size, MAX_CLIENT_HELLO))
            .unwrap_or(usize::MAX),
        closes_on_errors: close_connection_on_client_hello_parsing_errors,
    })
}
