//! Checks over HTTP/2, by prior knowledge.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Uri, header, uri::PathAndQuery};
use tokio::task::AbortHandle;

use super::{Answer, Broken, Target, USER_AGENT, apply, http as http1};
use crate::{
    config::health_check::{CheckHeaders, HttpCheck},
    upstream::{dial::dial, health::session::Verdict},
};

/// An HTTP/2 connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request of a check.
pub(super) struct Ask<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) changes: &'a CheckHeaders,
    pub(super) body: Bytes,
    /// How much of the response's body to keep.
    pub(super) wanted: usize,
}

pub(super) async fn check(
    check: &HttpCheck,
    to: &Target,
    kept: super::Connection,
) -> Result<(Verdict, super::Connection), Broken> {
    let ask = Ask {
        method: &check.method,
        path: &check.path,
        headers: HeaderMap::new(),
        changes: &check.headers,
        body: check.send.clone(),
        wanted: http1::wanted(check),
    };
    let (answer, connection) = ask.send(to, kept).await?;
    Ok((http1::verdict(check, to, &answer), connection))
}

impl Connection {
    async fn open(to: &Target) -> Result<Self, Broken> {
        let stream = dial(to.address, &to.sources).await.map_err(|_| Broken)?;
        stream.set_nodelay(true).map_err(|_| Broken)?;
        let (sender, driver) = h2::client::handshake(stream).await.map_err(|_| Broken)?;
        // Its error is the request's error too.
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
        })
    }
}

impl Ask<'_> {
    /// Sends the request, on the kept connection if it still lives.
    pub(super) async fn send(
        self,
        to: &Target,
        kept: super::Connection,
    ) -> Result<(Answer, super::Connection), Broken> {
        let mut connection = match kept {
            super::Connection::Http2(connection) if !connection.driver.is_finished() => connection,
            _ => Connection::open(to).await?,
        };
        let authority = to.authority.to_str().map_err(|_| Broken)?;
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query(self.path.clone())
            .build()
            .map_err(|_| Broken)?;
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        apply(self.changes, request.headers_mut());
        poll_fn(|cx| connection.sender.poll_ready(cx))
            .await
            .map_err(|_| Broken)?;
        let is_end = self.body.is_empty();
        let sent = connection.sender.send_request(request, is_end);
        let (response, mut stream) = sent.map_err(|_| Broken)?;
        if !is_end {
            stream.send_data(self.body, true).map_err(|_| Broken)?;
        }
        let (parts, mut body) = response.await.map_err(|_| Broken)?.into_parts();
        let mut read = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|_| Broken)?;
            body.flow_control()
                .release_capacity(data.len())
                .map_err(|_| Broken)?;
            http1::keep(&mut read, &data, self.wanted);
        }
        let trailers = body.trailers().await.map_err(|_| Broken)?;
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body: read.freeze(),
            trailers,
        };
        Ok((answer, super::Connection::Http2(connection)))
    }
}
