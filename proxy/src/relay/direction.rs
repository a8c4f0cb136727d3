//! One way of a relay.

use std::{
    cell::RefCell,
    io,
    net::Shutdown,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{Meter, Way, pipe::Pipe};

/// What one read takes.
const SCRATCH: usize = 64 * 1024;
/// Splices that move less are not worth their two calls.
const SMALL: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// One way, from one socket to the other.
#[derive(Debug, Default)]
pub(super) struct Direction {
    held: Held,
    mode: Mode,
    is_read_done: bool,
    /// How it has ended.
    end: Option<Result<(), Failed>>,
}

/// What was read and is not written yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        written: usize,
    },
    Pipe(Pipe),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Through the thread's buffer.
    #[default]
    Copy,
    /// Through a pipe: a lot comes.
    Splice,
    /// The system does not splice these sockets, or has no pipe for them.
    CopyOnly,
}

/// What the system refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Reading,
    Writing,
}

type Polled = Poll<Result<(), Failed>>;

impl Direction {
    pub(super) fn is_done(&self) -> bool {
        self.end.is_some()
    }

    /// Whether its end was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.end == Some(Ok(()))
    }

    /// Whether the socket at its end is broken.
    pub(super) fn breaks(&self) -> bool {
        self.end == Some(Err(Failed::Writing))
    }

    /// Moves what can be moved; ready once the end has been passed on, or a socket has failed. The end of a socket
    /// that is known to be broken is not passed on: it is none.
    pub(super) fn poll(
        &mut self,
        task: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        (way, is_broken): (Way, bool),
        meter: &impl Meter,
    ) -> Polled {
        if let Some(end) = self.end {
            return Poll::Ready(end);
        }
        let end = ready!(self.poll_moved(task, from, to, (way, is_broken), meter));
        self.end = Some(end);
        Poll::Ready(end)
    }

    fn poll_moved(
        &mut self,
        task: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        (way, is_broken): (Way, bool),
        meter: &impl Meter,
    ) -> Polled {
        loop {
            ready!(self.poll_write(task, to, way, meter))?;
            if self.is_read_done {
                self.let_go();
                if !is_broken {
                    // A socket that is gone cannot be shut down; its own way says so.
                    let _gone = SockRef::from(to).shutdown(Shutdown::Write);
                }
                return Poll::Ready(Ok(()));
            }
            match from.poll_read_ready(task) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failed::Reading)),
                Poll::Pending => {
                    self.let_go();
                    return Poll::Pending;
                }
            }
            let read = match self.mode {
                Mode::Splice => self.splice(from),
                Mode::Copy | Mode::CopyOnly => self.copy(from, to, way, meter),
            };
            match read {
                Ok(0) => self.is_read_done = true,
                Ok(bytes) => meter.read(way, bytes as u64),
                Err(Failure::Blocked) => {}
                Err(Failure::Read) => return Poll::Ready(Err(Failed::Reading)),
                Err(Failure::Write) => return Poll::Ready(Err(Failed::Writing)),
            }
        }
    }

    /// Writes what is held.
    fn poll_write(
        &mut self,
        task: &mut Context<'_>,
        to: &TcpStream,
        way: Way,
        meter: &impl Meter,
    ) -> Polled {
        loop {
            let is_empty = match &self.held {
                Held::Nothing => true,
                Held::Bytes { bytes, written } => *written == bytes.len(),
                Held::Pipe(pipe) => pipe.is_empty(),
            };
            if is_empty {
                if let Held::Bytes { .. } = self.held {
                    self.held = Held::Nothing;
                }
                return Poll::Ready(Ok(()));
            }
            if ready!(to.poll_write_ready(task)).is_err() {
                return Poll::Ready(Err(Failed::Writing));
            }
            let moved = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes { bytes, written } => {
                    let moved = to.try_write(bytes.get(*written..).unwrap_or_default());
                    moved.inspect(|moved| *written += moved)
                }
                Held::Pipe(pipe) => to.try_io(Interest::WRITABLE, || pipe.empty(to)),
            };
            match moved {
                Ok(moved) => meter.written(way, moved as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(Failed::Writing)),
            }
        }
    }

    /// Reads into the thread's buffer and writes from it at once; keeps what is left.
    fn copy(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        way: Way,
        meter: &impl Meter,
    ) -> Result<usize, Failure> {
        BUFFER.with_borrow_mut(|buffer| {
            let read = from.try_read(buffer).map_err(Failure::read)?;
            if read == buffer.len() && self.mode == Mode::Copy {
                self.mode = Mode::Splice;
            } else if read > 0 && read < buffer.len() {
                // The socket had no more: asking it again would only tell that.
                drained(from);
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            let written = match bytes {
                [] => 0,
                bytes => match to.try_write(bytes) {
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(_) => return Err(Failure::Write),
                },
            };
            if written > 0 {
                meter.written(way, written as u64);
            }
            if let Some(rest @ [_, ..]) = bytes.get(written..) {
                self.held = Held::Bytes {
                    bytes: rest.into(),
                    written: 0,
                };
            }
            Ok(read)
        })
    }

    /// Moves what the socket has into a pipe.
    fn splice(&mut self, from: &TcpStream) -> Result<usize, Failure> {
        if !matches!(self.held, Held::Pipe(_)) {
            match Pipe::take() {
                Ok(pipe) => self.held = Held::Pipe(pipe),
                // No file descriptors, or no room in the kernel: copying needs neither.
                Err(_) => {
                    self.mode = Mode::CopyOnly;
                    return Err(Failure::Blocked);
                }
            }
        }
        let Held::Pipe(pipe) = &mut self.held else {
            return Err(Failure::Blocked);
        };
        // The pipe is empty, so that only the socket can be what has nothing.
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(moved) => {
                if moved < SMALL {
                    self.mode = Mode::Copy;
                }
                Ok(moved)
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.let_go();
                self.mode = Mode::CopyOnly;
                Err(Failure::Blocked)
            }
            Err(error) => Err(Failure::read(error)),
        }
    }

    /// Gives an empty pipe back.
    fn let_go(&mut self) {
        if let Held::Pipe(pipe) = std::mem::take(&mut self.held) {
            pipe.give();
        }
    }
}

/// Forgets that a socket is readable until the system says so again.
fn drained(socket: &TcpStream) {
    let _blocked: io::Result<()> =
        socket.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
}

enum Failure {
    /// Nothing there, or to be tried in another way.
    Blocked,
    Read,
    Write,
}

impl Failure {
    fn read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Self::Blocked,
            _ => Self::Read,
        }
    }
}
