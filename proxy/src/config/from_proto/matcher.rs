//! String, regex, header and query-parameter matchers.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::envoy::{
    config::route::v3::{
        HeaderMatcher as HeaderProto, QueryParameterMatcher, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier,
    },
    r#type::{
        matcher::v3::{
            RegexMatchAndSubstitute, RegexMatcher, StringMatcher as StringProto,
            regex_matcher::EngineType, string_matcher::MatchPattern,
        },
        v3::Int64Range,
    },
};
use regex::bytes::Regex;

use crate::{
    config::matcher::{
        HeaderKey, HeaderMatchKind, HeaderMatcher, QueryMatchKind, QueryMatcher, StringMatcher,
    },
    convert::Cx,
    no_effect,
};

pub(crate) fn string_matcher(cx: &Cx<'_>, matcher: StringProto) -> Option<StringMatcher> {
    cx.converts::<StringProto>();
    cx.refuses::<StringProto>(&["custom"]);
    let StringProto {
        ignore_case,
        match_pattern,
    } = matcher;
    let text = |field: &str, value: String, allow_empty: bool| -> Arc<str> {
        if allow_empty {
            Arc::from(value)
        } else {
            cx.non_empty(field, &value)
        }
    };
    Some(match match_pattern {
        Some(MatchPattern::Exact(value)) => StringMatcher::Exact {
            value: text("exact", value, true),
            ignore_case,
        },
        Some(MatchPattern::Prefix(value)) => StringMatcher::Prefix {
            value: text("prefix", value, false),
            ignore_case,
        },
        Some(MatchPattern::Suffix(value)) => StringMatcher::Suffix {
            value: text("suffix", value, false),
            ignore_case,
        },
        Some(MatchPattern::Contains(value)) => StringMatcher::Contains {
            value: text("contains", value, false),
            ignore_case,
        },
        Some(MatchPattern::SafeRegex(matcher)) => {
            if ignore_case {
                cx.field("ignore_case")
                    .error("ignore_case has no effect for safe_regex");
            }
            StringMatcher::Regex(whole_regex(&cx.field("safe_regex"), matcher)?)
        }
        Some(MatchPattern::Custom(_)) => {
            cx.field("custom").error("not supported");
            return None;
        }
        None => {
            cx.field("match_pattern").error("value is required");
            return None;
        }
    })
}

/// A regex that must match the whole value, as RE2's `FullMatch`.
pub(crate) fn whole_regex(cx: &Cx<'_>, matcher: RegexMatcher) -> Option<Regex> {
    let pattern = pattern(cx, matcher);
    compiled(cx, &pattern, outrigger_proto::compile_whole_regex(&pattern))
}

/// A regex substitution: the pattern matches anywhere, `\1` in the text is a capture.
pub(crate) fn substitution(
    cx: &Cx<'_>,
    rewrite: RegexMatchAndSubstitute,
) -> Option<(Regex, Bytes)> {
    cx.converts::<RegexMatchAndSubstitute>();
    let RegexMatchAndSubstitute {
        pattern: matcher,
        substitution,
    } = rewrite;
    let matcher = cx.required("pattern", matcher)?;
    let at = cx.field("pattern");
    let pattern = pattern(&at, matcher);
    let regex = compiled(&at, &pattern, outrigger_proto::compile_regex(&pattern))?;
    check_captures(
        &cx.field("substitution"),
        &substitution,
        regex.captures_len(),
    )?;
    Some((regex, Bytes::from(substitution)))
}

fn check_captures(cx: &Cx<'_>, text: &str, groups: usize) -> Option<()> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            continue;
        }
        match bytes.next() {
            Some(digit @ b'0'..=b'9') if usize::from(digit - b'0') < groups => {}
            Some(digit @ b'0'..=b'9') => {
                cx.error(format!(
                    "refers to group \\{}, but the pattern has {} groups",
                    char::from(digit),
                    groups - 1
                ));
                return None;
            }
            Some(b'\\') => {}
            _ => {
                cx.error("a backslash must be followed by a digit or a backslash");
                return None;
            }
        }
    }
    Some(())
}

fn pattern(cx: &Cx<'_>, matcher: RegexMatcher) -> String {
    cx.converts::<RegexMatcher>();
    let RegexMatcher { regex, engine_type } = matcher;
    #[expect(deprecated, reason = "it is in most configurations")]
    match engine_type {
        None | Some(EngineType::GoogleRe2(_)) => {}
    }
    no_effect!(
        cx,
        RegexMatcher,
        "RE2 is the only engine; its program size limit is a runtime setting in Envoy",
        [engine_type]
    );
    if regex.is_empty() {
        cx.field("regex")
            .error("value length must be at least 1 characters");
    }
    regex
}

fn compiled(cx: &Cx<'_>, pattern: &str, regex: Result<Regex, String>) -> Option<Regex> {
    regex
        .map_err(|reason| {
            cx.field("regex").error(format!(
                "`{pattern}` is not a valid regular expression: {reason}"
            ));
        })
        .ok()
}

/// A header name for matching, or a pseudo-header.
pub(crate) fn header_key(cx: &Cx<'_>, name: &str) -> Option<HeaderKey> {
    Some(match name.to_ascii_lowercase().as_str() {
        ":method" => HeaderKey::Method,
        ":path" => HeaderKey::Path,
        ":authority" | "host" => HeaderKey::Authority,
        ":scheme" => HeaderKey::Scheme,
        _ => HeaderKey::Name(cx.header_name(name)?),
    })
}

pub(crate) fn header_matcher(cx: &Cx<'_>, matcher: HeaderProto) -> Option<HeaderMatcher> {
    cx.converts::<HeaderProto>();
    let HeaderProto {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = matcher;
    let key = header_key(&cx.field("name"), &name);
    let plain = |value: String| (Arc::from(value), false);
    #[expect(
        deprecated,
        reason = "Envoy still accepts the forms before string_match"
    )]
    let kind = match header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            HeaderMatchKind::String(string_matcher(&cx.field("string_match"), matcher)?)
        }
        Some(HeaderMatchSpecifier::ExactMatch(value)) => {
            let (value, ignore_case) = plain(value);
            HeaderMatchKind::String(StringMatcher::Exact { value, ignore_case })
        }
        Some(HeaderMatchSpecifier::PrefixMatch(value)) => {
            let (value, ignore_case) = plain(value);
            HeaderMatchKind::String(StringMatcher::Prefix { value, ignore_case })
        }
        Some(HeaderMatchSpecifier::SuffixMatch(value)) => {
            let (value, ignore_case) = plain(value);
            HeaderMatchKind::String(StringMatcher::Suffix { value, ignore_case })
        }
        Some(HeaderMatchSpecifier::ContainsMatch(value)) => {
            let (value, ignore_case) = plain(value);
            HeaderMatchKind::String(StringMatcher::Contains { value, ignore_case })
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(matcher)) => HeaderMatchKind::String(
            StringMatcher::Regex(whole_regex(&cx.field("safe_regex_match"), matcher)?),
        ),
        Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })) => {
            HeaderMatchKind::Range { start, end }
        }
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderMatchKind::Present(present),
        None => HeaderMatchKind::Present(true),
    };
    Some(HeaderMatcher {
        name: key?,
        kind,
        invert: invert_match,
        treat_missing_as_empty: treat_missing_header_as_empty,
    })
}

pub(crate) fn query_matcher(cx: &Cx<'_>, matcher: QueryParameterMatcher) -> Option<QueryMatcher> {
    cx.converts::<QueryParameterMatcher>();
    let QueryParameterMatcher {
        name,
        query_parameter_match_specifier,
    } = matcher;
    let name = cx.non_empty("name", &name);
    let kind = match query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            QueryMatchKind::String(string_matcher(&cx.field("string_match"), matcher)?)
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => {
            QueryMatchKind::Present(present)
        }
        None => QueryMatchKind::Present(true),
    };
    Some(QueryMatcher { name, kind })
}
