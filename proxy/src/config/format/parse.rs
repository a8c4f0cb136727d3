//! The parser of format strings.

use std::{error, fmt};

use super::{
    AddressPart, GrpcStatusFormat, HeaderField, HeaderOperand, Operator, PathQuery, PathSource,
    Piece, Precision, TimeFormat, TimePoint,
};

/// Envoy's format where none is configured.
pub(super) const DEFAULT_ACCESS_LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% \
    %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Operators of Envoy that we know by name and refuse.
const UNSUPPORTED: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "CEL",
    "CLUSTER_METADATA",
    "COALESCE",
    "CUSTOM_FLAGS",
    "DYNAMIC_METADATA",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "ROUTE_METADATA",
    "TYPED_CEL",
    "UPSTREAM_CLUSTER_METADATA",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_METADATA",
    "VIRTUAL_CLUSTER_NAME",
];

/// Beginnings of names of Envoy's operators that we refuse: TLS, and what we do not measure.
const UNSUPPORTED_FAMILIES: &[&str] = &[
    "DOWNSTREAM_",
    "UPSTREAM_",
    "RESPONSE_",
    "REQUEST_",
    "TLS_",
    "QUERY_",
];

/// Why a format string is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError(String);

impl FormatError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for FormatError {}

impl From<FormatError> for String {
    fn from(error: FormatError) -> Self {
        error.0
    }
}

/// One `%…%` taken apart: name, what is in brackets, length.
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    length: Option<usize>,
}

pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, command) = rest.split_at(at);
        literal.push_str(before);
        if let Some(after) = command.strip_prefix("%%") {
            literal.push('%');
            rest = after;
            continue;
        }
        let (command, after) = command_at(command).map_err(|reason| {
            FormatError::new(format!(
                "'{text}': {reason} at byte {}",
                text.len() - rest.len() + at
            ))
        })?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(Piece::Operator(operator(&command)?, command.length));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// Takes the command at the start of `text` (which begins with `%`) apart, and returns what follows it.
fn command_at(text: &str) -> Result<(Command<'_>, &str), &'static str> {
    let text = &text.strip_prefix('%').unwrap_or(text);
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return Err("no command operator after '%' (a literal '%' is written '%%')");
    }
    let mut argument = None;
    if let Some(after) = rest.strip_prefix('(') {
        let end = argument_end(after).ok_or("missing ')' or closing '%'")?;
        let (inside, bracket) = after.split_at(end);
        argument = Some(inside);
        rest = bracket.strip_prefix(')').unwrap_or(bracket);
    }
    let mut length = None;
    if let Some(after) = rest.strip_prefix(':') {
        let (digits, _) = after.split_once('%').ok_or("missing closing '%'")?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err("the length after ':' is not a number");
        }
        length = Some(
            digits
                .parse()
                .map_err(|_| "the length after ':' is too large")?,
        );
        rest = after.get(digits.len()..).unwrap_or("");
    }
    match rest.strip_prefix('%') {
        Some(rest) => Ok((
            Command {
                name,
                argument,
                length,
            },
            rest,
        )),
        None => Err("missing closing '%'"),
    }
}

/// Where the bracket closes: the first that the end of the command follows. (Time formats may have
/// brackets of their own.)
fn argument_end(text: &str) -> Option<usize> {
    text.match_indices(')').map(|(at, _)| at).find(|at| {
        let after = text.get(at + 1..).unwrap_or("");
        let after = match after.strip_prefix(':') {
            Some(length) => length.trim_start_matches(|c: char| c != '%'),
            None => after,
        };
        after.starts_with('%')
    })
}

impl Command<'_> {
    fn error(&self, reason: impl fmt::Display) -> FormatError {
        FormatError(format!("%{}%: {reason}", self.name))
    }

    /// The operator takes nothing in brackets and no length.
    fn bare(&self, operator: Operator) -> Result<Operator, FormatError> {
        if self.argument.is_some_and(|argument| !argument.is_empty()) {
            return Err(self.error("takes no parameter"));
        }
        self.no_length(operator)
    }

    fn no_length(&self, operator: Operator) -> Result<Operator, FormatError> {
        match self.length {
            Some(_) => Err(self.error("takes no length")),
            None => Ok(operator),
        }
    }

    fn required(&self) -> Result<&str, FormatError> {
        match self.argument {
            Some(argument) if !argument.is_empty() => Ok(argument),
            _ => Err(self.error("needs a parameter in brackets")),
        }
    }

    fn header(&self) -> Result<HeaderOperand, FormatError> {
        let argument = self.required()?;
        let (name, alternative) = match argument.split_once('?') {
            Some((name, alternative)) => (name, Some(alternative)),
            None => (argument, None),
        };
        if alternative.is_some_and(|text| text.contains('?')) {
            return Err(self.error("more than one alternative header"));
        }
        let field = |text: &str| {
            HeaderField::parse(text)
                .ok_or_else(|| self.error(format_args!("'{text}' is not a header name")))
        };
        Ok(HeaderOperand {
            name: field(name)?,
            alternative: alternative
                .filter(|text| !text.is_empty())
                .map(field)
                .transpose()?,
        })
    }

    fn time(&self) -> Result<TimeFormat, FormatError> {
        TimeFormat::parse(self.argument.unwrap_or("")).map_err(|error| self.error(error))
    }

    fn grpc_status(&self) -> Result<Operator, FormatError> {
        let format = match self.argument {
            None | Some("" | "CAMEL_STRING") => GrpcStatusFormat::CamelCase,
            Some("SNAKE_STRING") => GrpcStatusFormat::SnakeCase,
            Some("NUMBER") => GrpcStatusFormat::Number,
            Some(_) => {
                return Err(self.error("the format is CAMEL_STRING, SNAKE_STRING or NUMBER"));
            }
        };
        self.no_length(Operator::GrpcStatus(format))
    }

    fn path(&self) -> Result<Operator, FormatError> {
        let argument = self.argument.unwrap_or("");
        let (query, source) = argument.split_once(':').unwrap_or((argument, ""));
        let query = match query {
            "" | "WQ" => PathQuery::Keep,
            "NQ" => PathQuery::Drop,
            _ => return Err(self.error("the first parameter is WQ or NQ")),
        };
        let source = match source {
            "" | "ORIG_OR_PATH" => PathSource::OriginalOrPath,
            "ORIG" => PathSource::Original,
            "PATH" => PathSource::Path,
            _ => return Err(self.error("the second parameter is ORIG, PATH or ORIG_OR_PATH")),
        };
        Ok(Operator::Path(query, source))
    }

    fn common_duration(&self) -> Result<Operator, FormatError> {
        let argument = self.required()?;
        let mut parts = argument.split(':');
        let (Some(from), Some(to), precision, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(self.error("the parameter is FROM:TO[:ms|us|ns]"));
        };
        let point = |text| {
            TimePoint::parse(text).ok_or_else(|| {
                self.error(format_args!(
                    "'{text}' is not a time point that is measured"
                ))
            })
        };
        let precision = match precision {
            None | Some("ms") => Precision::Milliseconds,
            Some("us") => Precision::Microseconds,
            Some("ns") => Precision::Nanoseconds,
            Some(_) => return Err(self.error("the precision is ms, us or ns")),
        };
        self.no_length(Operator::CommonDuration(
            point(from)?,
            point(to)?,
            precision,
        ))
    }
}

impl TimePoint {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "DS_RX_BEG" => Self::DownstreamRxBegin,
            "DS_RX_END" => Self::DownstreamRxEnd,
            "US_TX_BEG" => Self::UpstreamTxBegin,
            "US_TX_END" => Self::UpstreamTxEnd,
            "US_RX_BEG" => Self::UpstreamRxBegin,
            "US_RX_END" => Self::UpstreamRxEnd,
            "DS_TX_BEG" => Self::DownstreamTxBegin,
            "DS_TX_END" => Self::DownstreamTxEnd,
            _ => return None,
        })
    }
}

impl HeaderField {
    /// Reads a header's name; case does not matter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Some(match &*lower {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            ":status" => Self::Status,
            _ if lower.is_empty() || lower.starts_with(':') => Self::Absent(lower.into()),
            _ => Self::Name(http::HeaderName::from_bytes(lower.as_bytes()).ok()?),
        })
    }
}

fn operator(command: &Command<'_>) -> Result<Operator, FormatError> {
    use AddressPart::{Port, Whole, WithoutPort};
    use Operator as Op;
    let bare = match command.name {
        "REQ" => return command.header().map(Op::Request),
        "REQ_WITHOUT_QUERY" => return command.header().map(Op::RequestWithoutQuery),
        "RESP" => return command.header().map(Op::Response),
        "TRAILER" => return command.header().map(Op::Trailer),
        "PATH" => return command.path(),
        "QUERY_PARAM" => return Ok(Op::QueryParam(command.required()?.into())),
        "START_TIME" => return command.no_length(Op::StartTime(command.time()?)),
        "START_TIME_LOCAL" => return command.no_length(Op::StartTimeLocal(command.time()?)),
        "EMIT_TIME" => return command.no_length(Op::EmitTime(command.time()?)),
        "EMIT_TIME_LOCAL" => return command.no_length(Op::EmitTimeLocal(command.time()?)),
        "COMMON_DURATION" => return command.common_duration(),
        "GRPC_STATUS" => return command.grpc_status(),
        "ENVIRONMENT" => {
            let value = std::env::var(command.required()?).ok();
            return Ok(Op::Environment(value.map(Into::into)));
        }
        "RESPONSE_CODE_DETAILS" if command.argument == Some("ALLOW_WHITESPACES") => {
            return command.no_length(Op::ResponseCodeDetails {
                allow_whitespace: true,
            });
        }
        "QUERY_PARAMS" if matches!(command.argument, None | Some("" | "ORIG")) => {
            return Ok(Op::QueryParams);
        }
        "RESPONSE_CODE_DETAILS" => Op::ResponseCodeDetails {
            allow_whitespace: false,
        },
        "BYTES_RECEIVED" => Op::BytesReceived,
        "BYTES_SENT" => Op::BytesSent,
        "PROTOCOL" => Op::Protocol,
        "UPSTREAM_PROTOCOL" => Op::UpstreamProtocol,
        "RESPONSE_CODE" => Op::ResponseCode,
        "CONNECTION_TERMINATION_DETAILS" => Op::ConnectionTerminationDetails,
        "RESPONSE_FLAGS" => Op::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Op::ResponseFlagsLong,
        "DURATION" => Op::Duration,
        "REQUEST_DURATION" => Op::RequestDuration,
        "REQUEST_TX_DURATION" => Op::RequestTxDuration,
        "RESPONSE_DURATION" => Op::ResponseDuration,
        "RESPONSE_TX_DURATION" => Op::ResponseTxDuration,
        "ROUTE_NAME" => Op::RouteName,
        "UPSTREAM_HOST" => Op::UpstreamHost,
        "UPSTREAM_HOST_NAME" => Op::UpstreamHostName { port: true },
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Op::UpstreamHostName { port: false },
        "UPSTREAM_CLUSTER" => Op::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Op::UpstreamClusterRaw,
        "UPSTREAM_LOCAL_ADDRESS" => Op::UpstreamLocalAddress(Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Op::UpstreamLocalAddress(WithoutPort),
        "UPSTREAM_LOCAL_PORT" => Op::UpstreamLocalAddress(Port),
        "UPSTREAM_REMOTE_ADDRESS" => Op::UpstreamRemoteAddress(Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Op::UpstreamRemoteAddress(WithoutPort),
        "UPSTREAM_REMOTE_PORT" => Op::UpstreamRemoteAddress(Port),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Op::UpstreamRequestAttemptCount,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Op::UpstreamTransportFailureReason,
        "UPSTREAM_CONNECTION_ID" => Op::UpstreamConnectionId,
        "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => {
            Op::DownstreamLocalAddress(Whole)
        }
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"
        | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => Op::DownstreamLocalAddress(WithoutPort),
        "DOWNSTREAM_LOCAL_PORT" | "DOWNSTREAM_DIRECT_LOCAL_PORT" => {
            Op::DownstreamLocalAddress(Port)
        }
        "DOWNSTREAM_REMOTE_ADDRESS" => Op::DownstreamRemoteAddress(Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Op::DownstreamRemoteAddress(WithoutPort),
        "DOWNSTREAM_REMOTE_PORT" => Op::DownstreamRemoteAddress(Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Op::DownstreamDirectRemoteAddress(Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Op::DownstreamDirectRemoteAddress(WithoutPort)
        }
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => Op::DownstreamDirectRemoteAddress(Port),
        "REQUESTED_SERVER_NAME" => {
            let host = match command.argument {
                None | Some("" | "SNI_ONLY") => false,
                Some("SNI_FIRST" | "HOST_FIRST") => true,
                Some(_) => {
                    return Err(command.error("the option is SNI_ONLY, SNI_FIRST or HOST_FIRST"));
                }
            };
            return command.no_length(Op::RequestedServerName { host });
        }
        "UNIQUE_ID" => Op::UniqueId,
        "CONNECTION_ID" => Op::ConnectionId,
        "STREAM_ID" => Op::StreamId,
        "HOSTNAME" => Op::Hostname,
        "GRPC_STATUS_NUMBER" => Op::GrpcStatus(GrpcStatusFormat::Number),
        "TRACE_ID" => Op::TraceId,
        "SPAN_ID" => Op::SpanId,
        "OUTRIGGER_REASON" => Op::OutriggerReason,
        name => {
            let is_envoys = UNSUPPORTED.contains(&name)
                || UNSUPPORTED_FAMILIES
                    .iter()
                    .any(|family| name.starts_with(family));
            return Err(command.error(match is_envoys {
                true => "command operator not supported",
                false => "unknown command operator",
            }));
        }
    };
    command.bare(bare)
}
