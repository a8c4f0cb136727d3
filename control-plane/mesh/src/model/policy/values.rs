//! Values that several policies are made of.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// A duration as the Gateway API writes it: `1m30s`, `250ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 1m30s or 250ms")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                text.parse::<gateway_api::Duration>()
                    .map(|parsed| Span(Duration::new(parsed.as_secs(), parsed.subsec_nanos())))
                    .map_err(|_| {
                        E::custom(format!("'{text}' is not a duration such as 1m30s or 250ms"))
                    })
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// 0 to 100, with fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        if (0.0..=100.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(D::Error::custom(format!("{value} is not in 0..100")))
        }
    }
}

/// Whose sidecars enforce a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// Those of the callers, on their way out.
    #[default]
    Client,
    /// Those of the service's own workloads, on the way in.
    Server,
    /// Each of them by itself.
    Both,
}

impl Side {
    /// Whether callers' sidecars enforce it.
    pub fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::Both)
    }

    /// Whether the service's sidecars enforce it.
    pub fn is_server(self) -> bool {
        matches!(self, Self::Server | Self::Both)
    }
}

/// A header and its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A condition on a request's header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The header's name.
    pub name: String,
    /// Exactly this value.
    #[serde(default)]
    pub value: Option<String>,
    /// The whole value matches.
    #[serde(default)]
    pub regex: Option<String>,
}
