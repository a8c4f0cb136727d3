//! Access logs and their formats.

use std::{path::PathBuf, sync::Arc};

use outrigger_proto::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog as Proto, access_log},
            core::v3::{JsonFormatOptions, SubstitutionFormatString, substitution_format_string},
        },
        extensions::access_loggers::{
            file::v3::{FileAccessLog, file_access_log},
            stream::v3::{StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log},
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use prost::Name;

use crate::{
    config::{
        access_log::{AccessLog, JsonFormat, LogFormat, Sink},
        format::Format,
    },
    convert::Cx,
    no_effect, unsupported,
};

pub(super) fn access_logs(cx: &Cx<'_>, logs: Vec<Proto>) -> Vec<AccessLog> {
    logs.into_iter()
        .enumerate()
        .filter_map(|(index, log)| access_log(&cx.index(index), log))
        .collect()
}

fn access_log(cx: &Cx<'_>, log: Proto) -> Option<AccessLog> {
    cx.converts::<Proto>();
    cx.partly::<Proto>(
        "typed_config",
        "FileAccessLog, StdoutAccessLog, StderrAccessLog",
    );
    let Proto {
        name,
        filter,
        config_type,
    } = log;
    unsupported!(cx, Proto, [filter]);
    let at = cx.field("typed_config");
    let Some(access_log::ConfigType::TypedConfig(any)) = config_type else {
        at.error("value is required");
        return None;
    };
    let (sink, format) = if any.type_url == FileAccessLog::type_url() {
        file(&at, at.any(&any)?)?
    } else if any.type_url == StdoutAccessLog::type_url() {
        at.converts::<StdoutAccessLog>();
        let StdoutAccessLog { access_log_format } = at.any(&any)?;
        let format = match access_log_format {
            Some(stdout_access_log::AccessLogFormat::LogFormat(format)) => {
                log_format(&at.field("log_format"), format)?
            }
            None => LogFormat::Text(Format::default_access_log()),
        };
        (Sink::Stdout, format)
    } else if any.type_url == StderrAccessLog::type_url() {
        at.converts::<StderrAccessLog>();
        let StderrAccessLog { access_log_format } = at.any(&any)?;
        let format = match access_log_format {
            Some(stderr_access_log::AccessLogFormat::LogFormat(format)) => {
                log_format(&at.field("log_format"), format)?
            }
            None => LogFormat::Text(Format::default_access_log()),
        };
        (Sink::Stderr, format)
    } else {
        at.error(format!(
            "`{}` is not a supported access logger",
            any.type_url
        ));
        return None;
    };
    Some(AccessLog {
        name: Arc::from(name),
        sink,
        format,
    })
}

fn file(cx: &Cx<'_>, log: FileAccessLog) -> Option<(Sink, LogFormat)> {
    cx.converts::<FileAccessLog>();
    cx.refuses::<FileAccessLog>(&["json_format"]);
    let FileAccessLog {
        path,
        access_log_format,
    } = log;
    if path.is_empty() {
        cx.field("path")
            .error("value length must be at least 1 characters");
    }
    #[expect(deprecated, reason = "Envoy still accepts the forms before log_format")]
    let format = match access_log_format {
        Some(file_access_log::AccessLogFormat::LogFormat(format)) => {
            log_format(&cx.field("log_format"), format)?
        }
        Some(file_access_log::AccessLogFormat::Format(text)) => {
            if text.is_empty() {
                LogFormat::Text(Format::default_access_log())
            } else {
                LogFormat::Text(parse(&cx.field("format"), &text)?)
            }
        }
        Some(file_access_log::AccessLogFormat::JsonFormat(_)) => {
            cx.field("json_format")
                .error("not supported; use log_format.json_format");
            return None;
        }
        Some(file_access_log::AccessLogFormat::TypedJsonFormat(json)) => LogFormat::Json {
            format: object(&cx.field("typed_json_format"), json),
            omit_empty: false,
        },
        None => LogFormat::Text(Format::default_access_log()),
    };
    Some((Sink::File(PathBuf::from(path)), format))
}

fn log_format(cx: &Cx<'_>, format: SubstitutionFormatString) -> Option<LogFormat> {
    cx.converts::<SubstitutionFormatString>();
    let SubstitutionFormatString {
        omit_empty_values,
        content_type,
        formatters,
        json_format_options,
        format,
    } = format;
    unsupported!(cx, SubstitutionFormatString, [formatters]);
    no_effect!(
        cx,
        SubstitutionFormatString,
        "only a local reply has a content type",
        [content_type]
    );
    #[expect(deprecated, reason = "it is in configurations")]
    if let Some(JsonFormatOptions { sort_properties }) = json_format_options {
        let at = cx.field("json_format_options");
        at.converts::<JsonFormatOptions>();
        no_effect!(
            at,
            JsonFormatOptions,
            "properties are always sorted",
            [sort_properties]
        );
    }
    match format {
        #[expect(
            deprecated,
            reason = "Envoy still accepts it, and it is what people use"
        )]
        Some(substitution_format_string::Format::TextFormat(text)) => {
            let format = parse(&cx.field("text_format"), &text)?;
            Some(LogFormat::Text(format.omitting_empty(omit_empty_values)))
        }
        Some(substitution_format_string::Format::JsonFormat(json)) => Some(LogFormat::Json {
            format: object(&cx.field("json_format"), json),
            omit_empty: omit_empty_values,
        }),
        Some(substitution_format_string::Format::TextFormatSource(source)) => {
            let at = cx.field("text_format_source");
            let bytes = at.inline_data(source)?;
            match std::str::from_utf8(&bytes) {
                Ok(text) => {
                    let format = parse(&at, text)?;
                    Some(LogFormat::Text(format.omitting_empty(omit_empty_values)))
                }
                Err(_) => {
                    at.error("not UTF-8");
                    None
                }
            }
        }
        None => {
            cx.field("format").error("value is required");
            None
        }
    }
}

fn parse(cx: &Cx<'_>, text: &str) -> Option<Format> {
    match Format::parse(text) {
        Ok(format) => Some(format),
        Err(reason) => {
            cx.error(reason);
            None
        }
    }
}

/// Keys come in any order out of a map; Envoy prints them sorted.
fn object(cx: &Cx<'_>, json: Struct) -> JsonFormat {
    let mut fields = json.fields.into_iter().collect::<Vec<_>>();
    fields.sort_by(|(left, _), (right, _)| left.cmp(right));
    JsonFormat::Object(
        fields
            .into_iter()
            .map(|(key, value)| {
                let format = json_value(&cx.field(&key), value);
                (Arc::from(key), format)
            })
            .collect(),
    )
}

fn json_value(cx: &Cx<'_>, value: Value) -> JsonFormat {
    match value.kind {
        Some(Kind::StringValue(text)) => {
            parse(cx, &text).map_or(JsonFormat::Null, JsonFormat::Format)
        }
        Some(Kind::StructValue(json)) => object(cx, json),
        Some(Kind::ListValue(list)) => JsonFormat::Array(
            list.values
                .into_iter()
                .enumerate()
                .map(|(index, value)| json_value(&cx.index(index), value))
                .collect(),
        ),
        Some(Kind::NumberValue(number)) => JsonFormat::Number(number),
        Some(Kind::BoolValue(value)) => JsonFormat::Bool(value),
        Some(Kind::NullValue(_)) | None => JsonFormat::Null,
    }
}
