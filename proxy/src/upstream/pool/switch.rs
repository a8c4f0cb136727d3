//! Connections that leave HTTP/1: where the socket goes when a host agrees to another protocol.

use bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, sync::oneshot};

use super::connect::Metered;

/// A connection that speaks another protocol now.
#[derive(Debug)]
pub(crate) struct Switched {
    /// The socket.
    pub(crate) io: Metered,
    /// What was read of the new protocol already.
    pub(crate) read: Bytes,
}

/// Who drives the connection has this.
#[derive(Debug)]
pub(crate) struct SwitchTo {
    socket: oneshot::Sender<Switched>,
    end: oneshot::Receiver<()>,
}

/// Who asked for the other protocol has this; the connection counts until it is dropped.
#[derive(Debug)]
pub(super) struct Expected {
    socket: oneshot::Receiver<Switched>,
    _end: oneshot::Sender<()>,
}

/// Both ends of one request for another protocol.
pub(super) fn switch() -> (SwitchTo, Expected) {
    let (to, socket) = oneshot::channel();
    let (ending, end) = oneshot::channel();
    (
        SwitchTo { socket: to, end },
        Expected {
            socket,
            _end: ending,
        },
    )
}

impl SwitchTo {
    /// Hands the socket over; ready when it is not used any more.
    pub(super) async fn hand_over(self, switched: Switched) {
        match self.socket.send(switched) {
            // It ends with its sender, who has nothing to say.
            Ok(()) => drop(self.end.await),
            Err(Switched { mut io, .. }) => drop(io.shutdown().await),
        }
    }
}

impl Expected {
    /// The socket; none if the connection failed.
    pub(super) async fn socket(&mut self) -> Option<Switched> {
        (&mut self.socket).await.ok()
    }
}
