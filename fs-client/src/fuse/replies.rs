//! Replies that several requests share, and the counting of all of them.

use super::convert::errno;
use crate::fs::Fs;
use crate::meta::{Op, Stop};
use crate::metrics::Timer;
use fuser::{ReplyEmpty, ReplyXattr};
use sitefs_base::Errno;

/// Counts a request and answers it. Who must not wait any more gets EIO.
pub(super) fn finish<T, R>(
    fs: &Fs,
    timer: Timer,
    reply: R,
    result: Op<T>,
    done: impl FnOnce(R, Result<T, Errno>),
) {
    let result = result.map_err(|stop| match stop {
        Stop::Errno(errno) => errno,
        Stop::WouldBlock => Errno::EIO,
    });
    fs.metrics().calls.done(timer, result.as_ref().err().copied());
    done(reply, result);
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<impl AsRef<[u8]>, Errno>) {
    match result {
        Ok(value) => {
            let value = value.as_ref();
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            match size {
                0 => reply.size(len),
                size if size < len => reply.error(errno(Errno::ERANGE)),
                _ => reply.data(value),
            }
        }
        Err(error) => reply.error(errno(error)),
    }
}
