//! `Listener.metadata.filter_metadata["outrigger.protocol_choice"]`: an extension of ours, where Envoy looks at
//! nothing.

use std::time::Duration;

use outrigger_proto::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{Value, value::Kind},
};

use crate::{
    config::listener::{FilterChain, ListenerFilter, NetworkFilter, ProtocolChoice},
    convert::Cx,
};

/// The key in `filter_metadata`.
pub(super) const KEY: &str = "outrigger.protocol_choice";

const CONNECT_AFTER: Duration = Duration::from_millis(5);
const LEARN_FOR: Duration = Duration::from_mins(10);

/// What the listener asks for; `cx` is at the listener.
pub(super) fn protocol_choice<'a>(
    cx: &Cx<'_>,
    metadata: Option<Metadata>,
    filters: &[ListenerFilter],
    filters_timeout: Duration,
    chains: impl IntoIterator<Item = &'a FilterChain>,
) -> Option<ProtocolChoice> {
    let fields = metadata?.filter_metadata.remove(KEY)?.fields;
    let at = cx.field("metadata");
    let at = at.field("filter_metadata");
    let at = at.key(KEY);
    let mut choice = ProtocolChoice {
        connect_after: CONNECT_AFTER,
        learn_for: LEARN_FOR,
    };
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (name, value) in fields {
        let field = match &*name {
            "connect_after" => &mut choice.connect_after,
            "learn_for" => &mut choice.learn_for,
            _ => {
                at.field(&name)
                    .error("unknown field; there are `connect_after` and `learn_for`");
                continue;
            }
        };
        match duration(&value) {
            Some(duration) => *field = duration,
            None => at
                .field(&name)
                .error("a duration such as \"0.005s\" is expected"),
        }
    }
    if !filters.contains(&ListenerFilter::HttpInspector) {
        at.error(
            "needs an http_inspector among the listener_filters: without it nothing is chosen",
        );
    }
    let is_tcp = |chain: &FilterChain| matches!(chain.filter, NetworkFilter::TcpProxy(_));
    if !chains.into_iter().any(is_tcp) {
        at.error(
            "needs a filter chain with a tcp_proxy: without it there is nothing to connect to",
        );
    }
    if !filters_timeout.is_zero() && choice.connect_after >= filters_timeout {
        at.field("connect_after")
            .error("must be less than the listener's listener_filters_timeout");
    }
    Some(choice)
}

/// As protobuf's JSON writes durations. Envoy's struct has no type for them.
fn duration(value: &Value) -> Option<Duration> {
    let Some(Kind::StringValue(text)) = &value.kind else {
        return None;
    };
    let number = text.strip_suffix('s')?;
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || !is_number(fraction) || seconds.len() > 9 || fraction.len() > 9 {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(seconds.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_protobuf() {
        let of = |text: &str| {
            duration(&Value {
                kind: Some(Kind::StringValue(text.to_owned())),
            })
        };
        assert_eq!(of("0.005s"), Some(Duration::from_millis(5)));
        assert_eq!(of("600s"), Some(Duration::from_mins(10)));
        assert_eq!(of("0s"), Some(Duration::ZERO));
        assert_eq!(of("1.000000001s"), Some(Duration::new(1, 1)));
        for bad in [
            "",
            "s",
            "5",
            "-1s",
            "1.s",
            ".5s",
            "5ms",
            "1e3s",
            "0.0000000001s",
            "9999999999s",
            "1.+5s",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        let number = Value {
            kind: Some(Kind::NumberValue(1.0)),
        };
        assert_eq!(duration(&number), None);
    }
}
