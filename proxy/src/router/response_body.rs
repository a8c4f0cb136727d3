//! A response's body on its way from the upstream: watches time, gives the connection back at its end.

use std::{
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::{
    failure::{expired_details, expired_flags, failure_flags, late_details},
    outcome::{self, Awaited},
    timeout::{Deadlines, Expired},
};
use crate::{
    http::{Activity, Body, BodyError},
    upstream::{
        Cluster, Host,
        pool::{Failure, UploadState, http1, http2},
    },
};

/// What a request holds until its response is complete. Dropping it gives the request up.
pub(super) enum Held {
    Http1(http1::Lease),
    Http2 { _lease: http2::Lease },
}

/// Sends a request's body besides; stops when dropped.
pub(super) struct UploadTask(pub(super) JoinHandle<()>);

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An exchange from the arrival of the response's head to its end.
pub(super) struct Exchange {
    pub(super) held: Option<Held>,
    pub(super) upload: Option<Rc<UploadState>>,
    pub(super) upload_task: Option<UploadTask>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) host: Arc<Host>,
    pub(super) is_internal: bool,
    /// When the request was sent, or its end where that is known.
    pub(super) start: Instant,
    /// Outlier detection waits for the trailers.
    pub(super) awaited: Option<Awaited>,
}

impl Exchange {
    /// The response is complete.
    pub(super) fn complete(&mut self, now: Instant) {
        if self.held.is_some() {
            self.cluster
                .stats
                .codes
                .time(now.saturating_duration_since(self.start), self.is_internal);
        }
        self.release(now);
    }

    /// The response is complete, and nobody gets it.
    pub(super) fn release(&mut self, now: Instant) {
        let Some(held) = self.held.take() else { return };
        if let Some(awaited) = self.awaited.take() {
            outcome::no_trailers(&self.cluster, &self.host, &awaited);
        }
        let is_sent = self.upload.as_ref().is_none_or(|upload| upload.is_done());
        match held {
            Held::Http1(lease) if is_sent => lease.release(now),
            Held::Http1(_) | Held::Http2 { .. } => self.stop_upload(),
        }
    }

    /// A frame of the response came: trailers say how it went.
    pub(super) fn note(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref()
            && let Some(awaited) = self.awaited.take()
        {
            outcome::trailers(&self.cluster, &self.host, &awaited, trailers);
        }
    }

    /// The response will not be complete.
    fn abandon(&mut self) {
        if self.held.take().is_some() {
            self.stop_upload();
        }
    }

    fn stop_upload(&mut self) {
        if let Some(upload) = &self.upload {
            upload.cancel();
        }
        self.upload_task = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(Held::Http2 { .. }) = self.held {
            self.cluster.stats.upstream_rq_tx_reset.inc();
        }
        self.abandon();
    }
}

/// The body that the downstream side reads.
pub(super) struct ResponseBody {
    pub(super) body: Body,
    /// What was read ahead.
    pub(super) first: Option<Result<Frame<Bytes>, BodyError>>,
    pub(super) deadlines: Deadlines,
    pub(super) exchange: Exchange,
    /// Who reads it had nothing to do but to send what came before.
    pub(super) is_flushed: bool,
    /// Of the stream, which looks at the clock when nobody reads.
    pub(super) activity: Rc<Activity>,
}

impl ResponseBody {
    fn complete(&mut self) {
        self.activity.response_deadline.set(None);
        self.exchange.complete(Instant::now());
    }

    fn failed(&mut self, error: &BodyError) -> BodyError {
        let failure = match error {
            BodyError::Http2(error) => Failure::from_http2(error),
            // An HTTP/1 body that ends early breaks the protocol.
            BodyError::Http1(_) => Failure::Protocol,
            BodyError::Ended(_) | BodyError::Upstream { .. } => Failure::ConnectionTermination,
        };
        let exchange = &mut self.exchange;
        if let BodyError::Http1(_) = error {
            exchange.cluster.stats.upstream_cx_protocol_error.inc();
        } else {
            count_reset(&failure, &exchange.cluster);
        }
        exchange.awaited = None;
        outcome::broke(&exchange.cluster, &exchange.host);
        exchange.abandon();
        BodyError::Upstream {
            flags: failure_flags(&failure),
            details: late_details(&failure),
        }
    }

    fn expired(&mut self, expired: Expired) -> BodyError {
        note_expired(expired, &self.exchange.cluster, &self.exchange.host);
        self.exchange.abandon();
        BodyError::Upstream {
            flags: expired_flags(expired),
            details: expired_details(expired),
        }
    }
}

/// Counts a failed attempt.
pub(super) fn note_failed(failure: &Failure, cluster: &Cluster, host: &Host, is_http2: bool) {
    if matches!(failure, Failure::Overflow(_)) {
        return;
    }
    host.stats.rq_error.fetch_add(1, Relaxed);
    if is_http2 {
        count_reset(failure, cluster);
    }
}

/// Counts a stream of HTTP/2 that did not end well.
fn count_reset(failure: &Failure, cluster: &Cluster) {
    let stats = &cluster.stats;
    match failure {
        Failure::RemoteReset => stats.upstream_rq_rx_reset.inc(),
        Failure::Protocol | Failure::Request => stats.upstream_rq_tx_reset.inc(),
        Failure::ConnectionTermination => stats.upstream_rq_pending_failure_eject.inc(),
        // A refused stream counts as none: it may be tried again.
        Failure::RefusedStream | Failure::Overflow(_) | Failure::Connect(_) => {}
    }
}

/// Counts a passed deadline.
pub(super) fn note_expired(expired: Expired, cluster: &Cluster, host: &Host) {
    match expired {
        Expired::Route => {
            cluster.stats.upstream_rq_timeout.inc();
            host.stats.rq_timeout.fetch_add(1, Relaxed);
        }
        Expired::PerTry | Expired::PerTryIdle => {
            let stats = &cluster.stats;
            match expired {
                Expired::PerTry => stats.upstream_rq_per_try_timeout.inc(),
                _ => stats.upstream_rq_per_try_idle_timeout.inc(),
            }
            host.stats.rq_timeout.fetch_add(1, Relaxed);
        }
        Expired::Life => cluster.stats.upstream_rq_max_duration_reached.inc(),
    }
    host.stats.rq_error.fetch_add(1, Relaxed);
}

impl Drop for ResponseBody {
    /// Its stream may have ended it because its time was over.
    fn drop(&mut self) {
        self.activity.response_deadline.set(None);
        if self.exchange.held.is_some()
            && let Some((at, expired)) = self.deadlines.response()
            && at <= Instant::now()
        {
            note_expired(expired, &self.exchange.cluster, &self.exchange.host);
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match this.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut this.body).poll_frame(cx),
        };
        let is_flushed = std::mem::replace(&mut this.is_flushed, polled.is_pending());
        match polled {
            Poll::Ready(None) => {
                this.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.deadlines.touch();
                this.exchange.note(&frame);
                if this.body.is_end_stream() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // An error ends the client's connection or stream, with whatever waits there to be sent. A
            // client that had nothing of an answer could believe that nobody had seen its request.
            Poll::Ready(Some(Err(error))) if !is_flushed => {
                this.is_flushed = true;
                this.first = Some(Err(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.failed(&error)))),
            Poll::Pending => match this.deadlines.poll(cx) {
                Poll::Ready(expired) => Poll::Ready(Some(Err(this.expired(expired)))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => 0,
        };
        match self.body.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + ahead),
            None => SizeHint::default(),
        }
    }
}
