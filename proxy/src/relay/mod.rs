//! Passes bytes on between two sockets, both ways, until both sides have said all they have to say.
//!
//! Nothing is kept for a connection on which nothing moves: what is read goes through a buffer of the thread,
//! and only what the other side does not take is held. A side that sends a lot is spliced: its bytes go from
//! socket to socket through a pipe, and never come into our memory.

mod direction;
mod pipe;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, net::TcpStream};

use self::direction::{Direction, Failed};

/// Writes buffers. Codecs have mostly one, for which the kernel has a shorter way than for several.
pub fn poll_write_buffers(
    stream: Pin<&mut impl AsyncWrite>,
    task: &mut Context<'_>,
    buffers: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match buffers {
        [buffer] => stream.poll_write(task, buffer),
        buffers => stream.poll_write_vectored(task, buffers),
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the host.
    Up,
    /// From the host to the client.
    Down,
}

/// One of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The host's.
    Upstream,
}

/// Is told what moves.
pub trait Meter {
    /// Bytes were read from the socket that the way begins at.
    fn read(&self, way: Way, bytes: u64);
    /// Bytes were written to the socket that the way ends at.
    fn written(&self, way: Way, bytes: u64);
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed; this one was the last to.
    Closed(Side),
    /// This side broke.
    Broken(Side),
}

/// Both ways of one connection.
#[derive(Debug, Default)]
pub struct Relay {
    up: Direction,
    down: Direction,
}

impl Relay {
    /// The side that has said all that it has to say, while the other has not: a reset of its socket shows neither in
    /// reading nor, unless there is something for it, in writing.
    #[must_use]
    pub fn listener(&self) -> Option<Side> {
        match (self.up.has_ended(), self.down.has_ended()) {
            (true, false) => Some(Side::Downstream),
            (false, true) => Some(Side::Upstream),
            _ => None,
        }
    }

    /// Moves what can be moved. Ready once both ways are closed or a side is broken; the calling task is
    /// woken when there may be more to do.
    pub fn poll(
        &mut self,
        task: &mut Context<'_>,
        downstream: &TcpStream,
        upstream: &TcpStream,
        meter: &impl Meter,
    ) -> Poll<End> {
        let was_up_done = self.up.is_done();
        let way = (Way::Up, self.down.breaks());
        let up = self.up.poll(task, downstream, upstream, way, meter);
        let way = (Way::Down, self.up.breaks());
        let down = self.down.poll(task, upstream, downstream, way, meter);
        for (way, reader, writer, back) in [
            (up, Side::Downstream, Side::Upstream, down),
            (down, Side::Upstream, Side::Downstream, up),
        ] {
            match way {
                Poll::Ready(Err(Failed::Reading)) => return Poll::Ready(End::Broken(reader)),
                // It may have said something before, as a host does that answers a request which it does
                // not want to read: that is still passed on.
                Poll::Ready(Err(Failed::Writing)) if back.is_ready() => {
                    return Poll::Ready(End::Broken(writer));
                }
                _ => {}
            }
        }
        if up == Poll::Ready(Ok(())) && down == Poll::Ready(Ok(())) {
            let last = if was_up_done {
                Side::Upstream
            } else {
                Side::Downstream
            };
            return Poll::Ready(End::Closed(last));
        }
        Poll::Pending
    }
}
