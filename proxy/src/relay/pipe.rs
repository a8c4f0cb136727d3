//! Pipes, kept by their thread while they are not used.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// What one splice moves at most: the more, the less often both ends are woken.
const CAPACITY: i32 = 1024 * 1024;
/// What a pipe is asked to hold, until the system agrees: a user without privileges has only so much.
const SIZES: [i32; 2] = [CAPACITY, CAPACITY / 4];
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
    /// An empty pipe that holds a lot.
    pub(super) fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let fits = |size: &i32| fcntl(&write, FcntlArg::F_SETPIPE_SZ(*size)).is_ok();
        if !SIZES.iter().any(fits) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
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
