//! Each thread's lines on their way to the writer.

use std::{cell::RefCell, sync::Arc, time::Duration};

use super::writer::SinkFile;
use crate::telemetry::later::later;

/// A buffer goes to the writer when it is this large, …
const LARGE: usize = 32 * 1024;
/// … or this old.
const OLD: Duration = Duration::from_millis(500);

thread_local! {
    static BUFFERS: RefCell<Buffers> = const {
        RefCell::new(Buffers { by_sink: Vec::new(), scratch: Vec::new(), is_armed: false })
    };
}

struct Buffers {
    by_sink: Vec<Buffer>,
    scratch: Vec<u8>,
    /// A task waits to flush.
    is_armed: bool,
}

struct Buffer {
    sink: Arc<SinkFile>,
    bytes: Vec<u8>,
    lines: u64,
}

impl Buffers {
    /// Hands everything over, and forgets sinks that nobody else has.
    fn flush(&mut self) {
        self.by_sink.iter_mut().for_each(Buffer::send);
        self.by_sink
            .retain(|buffer| Arc::strong_count(&buffer.sink) > 1);
    }
}

impl Buffer {
    fn send(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            self.sink.send(bytes, std::mem::take(&mut self.lines));
        }
    }
}

/// The end of a thread flushes.
impl Drop for Buffers {
    fn drop(&mut self) {
        self.by_sink.iter_mut().for_each(Buffer::send);
    }
}

/// Lets `write` append a line, given the buffer and a scratch buffer.
pub(super) fn append(sink: &Arc<SinkFile>, write: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) {
    // The thread may be ending; then nobody reads its last lines.
    let _ended = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        let Buffers {
            by_sink,
            scratch,
            is_armed,
        } = &mut *buffers;
        let at = by_sink
            .iter()
            .position(|buffer| Arc::ptr_eq(&buffer.sink, sink));
        let at = at.unwrap_or_else(|| {
            by_sink.push(Buffer {
                sink: Arc::clone(sink),
                bytes: Vec::new(),
                lines: 0,
            });
            by_sink.len() - 1
        });
        let buffer = &mut by_sink[at];
        write(&mut buffer.bytes, scratch);
        buffer.lines += 1;
        sink.buffered();
        if buffer.bytes.len() >= LARGE {
            buffer.send();
        } else if !*is_armed {
            *is_armed = later(OLD, flush_thread);
            if !*is_armed {
                buffer.send();
            }
        }
    });
}

/// Hands this thread's lines to the writer now. Threads with a runtime do so by themselves, and when
/// they end.
pub fn flush_thread() {
    let _ended = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        buffers.is_armed = false;
        buffers.flush();
    });
}
