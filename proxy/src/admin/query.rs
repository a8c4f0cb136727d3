//! Query parameters.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn new(query: Option<&'a str>) -> Self {
        Self(query.unwrap_or(""))
    }

    /// Names and values, decoded.
    pub(super) fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.0
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (
                    percent_decode_str(name).decode_utf8_lossy(),
                    percent_decode_str(value).decode_utf8_lossy(),
                )
            })
    }

    /// The value of a parameter; an empty one counts as missing.
    pub(super) fn value(self, name: &str) -> Option<Cow<'a, str>> {
        self.pairs()
            .find_map(|(key, value)| (key == name).then_some(value))
            .filter(|value| !value.is_empty())
    }

    /// Whether a parameter is there, with or without value.
    pub(super) fn has(self, name: &str) -> bool {
        self.pairs().any(|(key, _)| key == name)
    }
}
