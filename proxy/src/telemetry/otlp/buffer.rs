//! Each thread's spans on their way to the main thread.

use std::{cell::RefCell, sync::Arc, time::Duration};

use opentelemetry_proto::tonic::trace::v1::Span;

use super::Destination;
use crate::telemetry::later::later;

/// A buffer goes to the main thread when it holds this many spans, …
const LARGE: usize = 64;
/// … or is this old.
const OLD: Duration = Duration::from_millis(250);

thread_local! {
    static BUFFERS: RefCell<Buffers> = const {
        RefCell::new(Buffers { by_destination: Vec::new(), is_armed: false })
    };
}

struct Buffers {
    by_destination: Vec<(Arc<Destination>, Vec<Span>)>,
    /// A task waits to flush.
    is_armed: bool,
}

impl Buffers {
    fn send_all(&mut self) {
        for (destination, spans) in self.by_destination.drain(..) {
            if !spans.is_empty() {
                destination.send(spans);
            }
        }
    }
}

/// The end of a thread flushes.
impl Drop for Buffers {
    fn drop(&mut self) {
        self.send_all();
    }
}

pub(super) fn append(destination: &Arc<Destination>, span: Span) {
    // The thread may be ending; then its last spans are lost.
    let _ended = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        let Buffers {
            by_destination,
            is_armed,
        } = &mut *buffers;
        let at = by_destination
            .iter()
            .position(|(other, _)| Arc::ptr_eq(other, destination));
        let at = at.unwrap_or_else(|| {
            by_destination.push((Arc::clone(destination), Vec::new()));
            by_destination.len() - 1
        });
        let (_, spans) = &mut by_destination[at];
        spans.push(span);
        if spans.len() >= LARGE {
            destination.send(std::mem::take(spans));
        } else if !*is_armed {
            *is_armed = later(OLD, flush_thread);
            if !*is_armed {
                destination.send(std::mem::take(spans));
            }
        }
    });
}

/// Hands this thread's spans to the main thread now. Threads with a runtime do so by themselves, and
/// when they end.
pub fn flush_thread() {
    let _ended = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        buffers.is_armed = false;
        buffers.send_all();
    });
}
