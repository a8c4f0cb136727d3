//! Pipes, kept by their thread while they are not used.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// What a pipe is asked to hold; the system may give less.
const CAPACITY: i32 = 256 * 1024;
/// Empty pipes that a thread keeps: more would only hold memory of the kernel.
const KEPT: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe and how much is in it. Empty ones go back to their thread.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe.
    pub(super) fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A smaller one works too.
        let _size = fcntl(&write, FcntlArg::F_SETPIPE_SZ(CAPACITY));
        Ok(Self {
            read,
            write,
            held: 0,
        })
    }

    /// Gives an empty pipe back.
    pub(super) fn give(self) {
        if self.held == 0 {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < KEPT {
                    pipes.push(self);
                }
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes in what a socket has; zero is its end.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let limit = usize::try_from(CAPACITY).unwrap_or(usize::MAX);
        let moved = splice(from, None, &self.write, None, limit, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Lets a socket have what is in it.
    pub(super) fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.read, None, to, None, self.held, flags())?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}
