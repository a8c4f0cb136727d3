//! Looks at the first bytes of a socket and leaves them there.

use std::io;

use tokio::{io::Interest, net::TcpStream};

use super::Stop;

/// What the first look takes: most first messages are smaller.
const FIRST: usize = 2048;

/// The bytes that are there so far.
pub(super) struct Peek<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer was filled.
    length: usize,
}

/// What a look at the bytes gave.
pub(super) enum Step<T> {
    /// More are needed.
    More,
    /// This is clear.
    Done(T),
}

impl<'a> Peek<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            length: 0,
        }
    }

    /// Shows `look` the bytes, more each time, until it is done. It must be when there are `longest`.
    pub(super) async fn until<T>(
        &mut self,
        longest: usize,
        mut look: impl FnMut(&[u8]) -> Step<T>,
    ) -> Result<T, Stop> {
        loop {
            if self.length > 0 {
                let bytes = self.buffer.get(..self.length).unwrap_or_default();
                if let Step::Done(done) = look(bytes) {
                    return Ok(done);
                }
                if self.length >= longest {
                    return Err(Stop::Refused);
                }
            }
            self.more(longest).await?;
        }
    }

    /// Waits until there is more than before.
    async fn more(&mut self, longest: usize) -> Result<(), Stop> {
        let before = self.length;
        loop {
            let ready = self.stream.ready(Interest::READABLE).await;
            let is_closed = ready.map_err(|_| Stop::Error)?.is_read_closed();
            if self.buffer.len() <= before {
                let size = (before * 2).max(FIRST).min(longest.max(before + 1));
                self.buffer.resize(size, 0);
            }
            match peek(self.stream, &mut self.buffer) {
                Ok(0) => return Err(Stop::RemoteClose),
                Ok(length) if length > before => {
                    self.length = length;
                    return Ok(());
                }
                // All that will come has come.
                Ok(_) if is_closed => return Err(Stop::RemoteClose),
                // The socket stays readable all the time: only what the system says anew counts.
                Ok(_) => forget(self.stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Stop::Error),
            }
        }
    }
}

/// Whether nothing has come so far, not even an end.
#[must_use]
pub fn is_silent(stream: &TcpStream) -> bool {
    peek_now(stream, &mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Makes bytes count again that a look which was given up has seen: it was waiting for more of them, and whoever
/// reads them now must not.
///
/// # Errors
/// When there are no file descriptors.
pub fn see_again(stream: &mut TcpStream) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    if !is_silent(stream) {
        // The system says of a new registration what is there already.
        let same: std::net::TcpStream = stream.as_fd().try_clone_to_owned()?.into();
        *stream = TcpStream::from_std(same)?;
    }
    Ok(())
}

fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    stream.try_io(Interest::READABLE, || peek_now(stream, buffer))
}

fn peek_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::AsRawFd as _;
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(recv(stream.as_raw_fd(), buffer, flags)?)
}

fn forget(stream: &TcpStream) {
    let _blocked: io::Result<()> =
        stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
}
