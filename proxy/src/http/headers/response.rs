//! The last changes of a response's head.

use http::{HeaderMap, HeaderValue, header};

use super::{KEEP_ALIVE, PROXY_CONNECTION, X_REQUEST_ID, append};
use crate::config::http_connection_manager::{HttpConnectionManager, ServerHeader};

/// What a response is finished with.
#[derive(Debug)]
pub struct ResponseCx<'a> {
    /// Now, as `date` has it.
    pub date: HeaderValue,
    /// The request's id.
    pub request_id: Option<&'a HeaderValue>,
    /// We made the response ourselves.
    pub is_local: bool,
    /// HTTP/1: close the connection after it.
    pub closes: bool,
    /// The request asked for another protocol: `upgrade` stays.
    pub keeps_upgrade: bool,
    /// Another protocol follows: `connection` stays.
    pub switches: bool,
}

/// Makes a response ready to be sent to the client.
pub fn finish_response(
    headers: &mut HeaderMap,
    config: &HttpConnectionManager,
    cx: ResponseCx<'_>,
) {
    let mut has_hop_by_hop = false;
    let mut has_server = false;
    let mut has_date = false;
    for name in headers.keys() {
        match *name {
            header::SERVER => has_server = true,
            header::DATE => has_date = true,
            header::CONNECTION | header::UPGRADE | header::TRANSFER_ENCODING => {
                has_hop_by_hop = true
            }
            _ => has_hop_by_hop |= matches!(name.as_str(), "keep-alive" | "proxy-connection"),
        }
    }
    if has_hop_by_hop {
        if !cx.keeps_upgrade {
            headers.remove(header::UPGRADE);
        }
        if !cx.switches {
            headers.remove(header::CONNECTION);
        }
        for name in [header::TRANSFER_ENCODING, KEEP_ALIVE, PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
    if config.always_set_request_id_in_response
        && let Some(id) = cx.request_id
    {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    if let Some(via) = &config.via {
        append(headers, header::VIA, via, ", ");
    }
    if !has_date {
        headers.insert(header::DATE, cx.date);
    }
    let sets_server = match config.server_header {
        ServerHeader::Overwrite => true,
        ServerHeader::AppendIfAbsent => !has_server,
        ServerHeader::PassThrough => false,
    };
    if sets_server {
        headers.insert(header::SERVER, config.server_name.clone());
    }
    if cx.closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
