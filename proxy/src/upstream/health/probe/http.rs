//! HTTP/1.1 checks, and what the answer to an HTTP check means in either version.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::{Answer, Broken, Target, USER_AGENT, apply, closes, holds};
use crate::{
    config::health_check::HttpCheck,
    upstream::{dial::dial, health::session::Verdict},
};

static IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
static DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
static CHECKED_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");

/// The most of a body that is ever kept, whatever the configuration says.
const LARGEST_BODY: usize = 8 << 20;

/// An HTTP/1.1 connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    async fn open(to: &Target) -> Result<Self, Broken> {
        let stream = dial(to.address, &to.sources).await.map_err(|_| Broken)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Broken)?;
        // Its error is the request's error too.
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
        })
    }
}

pub(super) async fn check(
    check: &HttpCheck,
    to: &Target,
    kept: super::Connection,
) -> Result<(Verdict, super::Connection), Broken> {
    let mut connection = match kept {
        super::Connection::Http1(connection) if !connection.sender.is_closed() => connection,
        _ => Connection::open(to).await?,
    };
    let mut request = Request::new(Full::new(check.send.clone()));
    *request.method_mut() = check.method.clone();
    *request.uri_mut() = http::Uri::from(check.path.clone());
    let headers = request.headers_mut();
    headers.insert(header::HOST, to.authority.clone());
    headers.insert(header::USER_AGENT, USER_AGENT);
    apply(&check.headers, headers);
    connection.sender.ready().await.map_err(|_| Broken)?;
    let response = connection.sender.send_request(request).await;
    let (parts, mut body) = response.map_err(|_| Broken)?.into_parts();
    let wanted = wanted(check);
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| Broken)?.into_data() {
            keep(&mut read, &data, wanted);
        }
    }
    let answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: read.freeze(),
        trailers: None,
    };
    let kept = match closes(&answer.headers) || parts.version == http::Version::HTTP_10 {
        true => super::Connection::None,
        false => super::Connection::Http1(connection),
    };
    Ok((verdict(check, to, &answer), kept))
}

/// How much of the body is looked at.
pub(super) fn wanted(check: &HttpCheck) -> usize {
    if check.receive.is_empty() {
        return 0;
    }
    let size = check.response_buffer_size.unwrap_or(u64::MAX);
    usize::try_from(size)
        .unwrap_or(usize::MAX)
        .min(LARGEST_BODY)
}

/// Keeps what is still wanted of `data`.
pub(super) fn keep(read: &mut BytesMut, data: &Bytes, wanted: usize) {
    let room = wanted.saturating_sub(read.len());
    let part = data.get(..room).unwrap_or(data);
    read.extend_from_slice(part);
}

/// What an answer says of the host.
pub(super) fn verdict(check: &HttpCheck, to: &Target, answer: &Answer) -> Verdict {
    let status = answer.status.as_u16();
    let failed = |is_retriable, is_excluded| Verdict::Failed {
        is_retriable,
        status,
        is_excluded,
    };
    if !holds(&answer.body, &check.receive) {
        return failed(false, false);
    }
    if !check.expected.iter().any(|range| range.contains(&status)) {
        let is_retriable = check.retriable.iter().any(|range| range.contains(&status));
        return failed(is_retriable, answer.headers.contains_key(&IMMEDIATE_FAIL));
    }
    if let Some(matcher) = &check.service_name {
        to.verify_cluster.inc();
        if !matcher.matches(value(&answer.headers, &CHECKED_CLUSTER)) {
            return failed(false, false);
        }
    }
    Verdict::Passed {
        is_degraded: answer.headers.contains_key(&DEGRADED),
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map_or(&[], |value| value.as_bytes())
}
