//! One method per request: convert, call, convert back. What can be answered from here is answered
//! in the FUSE thread; the rest goes to a thread that may wait for the cell.

use super::asker::{ACCESS_LIST, Asker};
use super::backing;
use super::capabilities::{want_passthrough, wanted_capabilities};
use super::convert::{
    BLOCK, COPY_MAX, caller, create_args, errno, inode, kind_of_mode, lock_owner, open_flags, permissions,
    place, set_time,
};
use super::entries::Entries;
use super::lasting::{attributes, created, found, made, removed, renamed};
use super::locks::{LockArgs, LockDesk, LockThreads};
use super::replies::{finish, reply_empty, reply_xattr};
use crate::ended::Ended;
use crate::fs::{Access, CopyRange, Fs, Opening, Truncate, WriteKind};
use crate::meta::{Cx, Op, Stop};
use crate::metrics::{Call, Timer};
use crate::status::{Reporter, STATUS_LEN, STATUS_XATTR};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use sitefs_base::op::{RenameMode, SetAttr, XattrMode};
use sitefs_base::{Errno, InodeId};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use tokio::runtime::Handle;

/// The largest write request, in bytes.
const MAX_WRITE: u32 = 1 << 20;

/// Answers the kernel's requests with the operations of [`Fs`].
pub struct Adapter {
    fs: Arc<Fs>,
    reporter: Arc<Reporter>,
    runtime: Handle,
    ended: Arc<Ended>,
    panic_at: Option<OsString>,
    locks: LockDesk,
    lock_threads: Mutex<Option<LockThreads>>,
    /// Whether passthrough is wanted, and since the handshake whether it is offered too.
    passthrough: Arc<AtomicBool>,
}

impl Adapter {
    /// Answers with `fs`; what has to wait runs on blocking threads of `runtime`. `ended` is set
    /// when the kernel ends the session.
    pub fn new(fs: Arc<Fs>, reporter: Arc<Reporter>, runtime: Handle, ended: Arc<Ended>) -> Self {
        let (locks, threads) = LockDesk::new(Arc::clone(&fs), runtime.clone());
        let lock_threads = Mutex::new(Some(threads));
        let passthrough = Arc::default();
        Self { fs, reporter, runtime, ended, panic_at: None, locks, lock_threads, passthrough }
    }

    /// Asks for passthrough if it is `wanted`.
    pub fn with_passthrough(self, wanted: bool) -> Self {
        self.passthrough.store(wanted, Ordering::Release);
        self
    }

    /// What it serves, and where it says whether the kernel offers passthrough.
    pub(super) fn served(&self) -> (Arc<Fs>, Arc<AtomicBool>) {
        (Arc::clone(&self.fs), Arc::clone(&self.passthrough))
    }

    /// With a bug where a test wants one: it panics when this name is looked up.
    pub fn with_bug(self, panic_at: Option<OsString>) -> Self {
        Self { panic_at, ..self }
    }

    /// What has to run beside the session, to be started once.
    pub fn lock_threads(&self) -> Option<LockThreads> {
        self.lock_threads.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tries `op` here; if it would have to wait, runs it where it may.
    fn run<T, R: Send + 'static>(
        &self,
        call: Call,
        reply: R,
        op: impl Fn(&Fs, Cx) -> Op<T> + Send + 'static,
        done: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        let timer = Timer::start(call);
        match op(&self.fs, Cx::Fast) {
            Err(Stop::WouldBlock) => self.wait_since(timer, reply, move |fs| op(fs, Cx::Slow), done),
            result => finish(&self.fs, timer, reply, result, done),
        }
    }

    /// Runs `op` where it may wait.
    fn wait<T, R: Send + 'static>(
        &self,
        call: Call,
        reply: R,
        op: impl FnOnce(&Fs) -> Op<T> + Send + 'static,
        done: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        self.wait_since(Timer::start(call), reply, op, done);
    }

    fn wait_since<T, R: Send + 'static>(
        &self,
        timer: Timer,
        reply: R,
        op: impl FnOnce(&Fs) -> Op<T> + Send + 'static,
        done: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        // The reply is the only thing that anybody waits for; the runtime owns the thread.
        drop(self.runtime.spawn_blocking(move || finish(&fs, timer, reply, op(&fs), done)));
    }

    /// Gives the entries behind `offset`; a listing may have to be fetched.
    fn list<R: Entries>(&self, dir: INodeNo, fh: FileHandle, offset: u64, mut reply: R) {
        let (fs, dir, timer) = (Arc::clone(&self.fs), inode(dir), Timer::start(Call::Readdir));
        let mut flight = fs.flights().look(dir);
        drop(self.runtime.spawn_blocking(move || {
            let listed = fs.readdir(Cx::Slow, fh.0, offset, R::PLUS, &mut |item| {
                reply.take(item, flight.listed(dir, item))
            });
            finish(&fs, timer, reply, listed, |reply, listed| reply.end(listed.map_err(Stop::Errno)));
            drop(flight);
        }));
    }
}

/// Whether this is the attribute that shows how the mount stands.
fn is_status(ino: INodeNo, name: &OsStr) -> bool {
    inode(ino) == InodeId::ROOT && name == STATUS_XATTR
}

/// Converts a place or answers with the reason why it is none.
macro_rules! place_or {
    ($reply:expr, $parent:expr, $name:expr) => {
        match place($parent, $name) {
            Ok(place) => place,
            Err(error) => return $reply.error(errno(error)),
        }
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in wanted_capabilities() {
            if config.add_capabilities(capability).is_err() {
                tracing::info!(?capability, "this kernel does not offer a FUSE feature");
            }
        }
        let offered = self.passthrough.load(Ordering::Acquire) && want_passthrough(config);
        self.passthrough.store(offered, Ordering::Release);
        if let Err(most) = config.set_max_write(MAX_WRITE) {
            config.set_max_write(most).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.set();
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        assert!(self.panic_at.as_deref() != Some(name), "a test wants a panic here");
        let at = place_or!(reply, parent, name);
        let done = found(self.fs.flights().look(at.parent), at.clone());
        self.run(Call::Lookup, reply, move |fs, cx| fs.lookup(cx, &at), done);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(inode(ino), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let done = attributes(self.fs.flights().attributes());
        self.run(Call::Getattr, reply, move |fs, cx| fs.getattr(cx, inode(ino)), done);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            kill_setid: size.is_some() && req.uid() != 0,
        };
        // A request that sets nothing is how the kernel asks for set-id bits to go. It does not say
        // whether a write asks or chown(2), which only owners may use: a write needs a handle.
        let only_kill = set.is_empty();
        set.kill_setid |= only_kill;
        let uid = req.uid();
        let op = move |fs: &Fs, cx| {
            if only_kill && uid != 0 && !fs.has_writers(inode(ino)) {
                let attr = fs.getattr(cx, inode(ino))?.attr;
                if attr.uid != uid && attr.mode & 0o6000 != 0 {
                    return Err(Errno::EPERM.into());
                }
            }
            fs.setattr(cx, inode(ino), &set)
        };
        self.run(Call::Setattr, reply, op, attributes(self.fs.flights().attributes()));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let done = |reply: ReplyData, result: Result<bytes::Bytes, Errno>| match result {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        };
        self.run(Call::Readlink, reply, move |fs, cx| fs.readlink(cx, inode(ino)), done);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let at = place_or!(reply, parent, name);
        let Some(kind) = kind_of_mode(mode) else { return reply.error(errno(Errno::EINVAL)) };
        let create = create_args(req, mode, umask);
        let done = made(self.fs.flights().change(at.parent), at.clone());
        self.wait(Call::Mknod, reply, move |fs| fs.mknod(&at, kind, rdev, create), done);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let at = place_or!(reply, parent, name);
        let create = create_args(req, mode, umask);
        let done = made(self.fs.flights().change(at.parent), at.clone());
        self.wait(Call::Mkdir, reply, move |fs| fs.mkdir(&at, create), done);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = place_or!(reply, parent, name);
        let done = removed(self.fs.flights().change(at.parent), at.clone());
        self.wait(Call::Unlink, reply, move |fs| fs.unlink(&at), done);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = place_or!(reply, parent, name);
        let done = removed(self.fs.flights().change(at.parent), at.clone());
        self.wait(Call::Rmdir, reply, move |fs| fs.rmdir(&at), done);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let at = place_or!(reply, parent, name);
        let (target, caller) = (target.as_os_str().as_bytes().to_vec(), caller(req));
        let done = made(self.fs.flights().change(at.parent), at.clone());
        self.wait(Call::Symlink, reply, move |fs| fs.symlink(&at, &target, caller), done);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = place_or!(reply, parent, name);
        let to = place_or!(reply, newparent, newname);
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(errno(Errno::EINVAL));
        };
        let flight = self.fs.flights().change_both(from.parent, to.parent);
        let done = renamed(flight, from.clone(), to.clone(), mode);
        self.wait(Call::Rename, reply, move |fs| fs.rename(&from, &to, mode), done);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let at = place_or!(reply, newparent, newname);
        let done = made(self.fs.flights().change(at.parent), at.clone());
        self.wait(Call::Link, reply, move |fs| fs.link(inode(ino), &at), done);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = Access::of(flags.0);
        let truncate = (flags.0 & libc::O_TRUNC != 0).then_some(Truncate { kill_setid: req.uid() != 0 });
        let done = |reply: ReplyOpen, result: Result<Opening, Errno>| match result {
            Ok(Opening::Here(opened)) => match &opened.loan {
                Some(loan) => backing::opened(reply, opened.fh, loan),
                None => reply.opened(FileHandle(opened.fh), open_flags(&opened)),
            },
            // The kernel looks the name up again (fuse-facts 6).
            Ok(Opening::Elsewhere) => reply.error(errno(Errno::ESTALE)),
            Err(error) => reply.error(errno(error)),
        };
        self.run(Call::Open, reply, move |fs, cx| fs.open(cx, inode(ino), access, truncate), done);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let at = place_or!(reply, parent, name);
        let create = create_args(req, mode, umask);
        let exclusive = flags & libc::O_EXCL != 0;
        let truncate = (flags & libc::O_TRUNC != 0).then_some(Truncate { kill_setid: req.uid() != 0 });
        let how = (Access::of(flags), truncate);
        let done = created(self.fs.flights().change(at.parent), at.clone());
        self.run(Call::Create, reply, move |fs, cx| fs.create(cx, &at, create.clone(), exclusive, how), done);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = usize::try_from(size).unwrap_or(0);
        let done = |reply: ReplyData, result: Result<Vec<u8>, Errno>| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        };
        self.run(Call::Read, reply, move |fs, cx| fs.read(cx, fh.0, offset, len), done);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from_pages = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let kind = WriteKind {
            append: flags.0 & libc::O_APPEND != 0 && !from_pages,
            kill_setid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            from_pages,
        };
        let done = |reply: ReplyWrite, result: Result<u32, Errno>| match result {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        };
        let timer = Timer::start(Call::Write);
        match self.fs.write(Cx::Fast, fh.0, offset, data, kind) {
            Err(Stop::WouldBlock) => {
                let data = data.to_vec();
                let write = move |fs: &Fs| fs.write(Cx::Slow, fh.0, offset, &data, kind);
                self.wait_since(timer, reply, write, done);
            }
            result => finish(&self.fs, timer, reply, result, done),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let (locks, owner) = (self.locks.clone(), lock_owner(owner));
        let done = move |reply, result| locks.release(fh.0, owner, result, reply);
        if self.fs.flush_is_idle(fh.0) {
            return finish(&self.fs, Timer::start(Call::Flush), reply, Ok(()), done);
        }
        self.wait(Call::Flush, reply, move |fs| fs.flush(fh.0), done);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.run(Call::Release, reply, move |fs, cx| fs.release(cx, fh.0), reply_empty);
    }

    fn getlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let (owner, range, thread) = (lock_owner(owner), (start, end), req.pid());
        self.locks.get(LockArgs { fh: fh.0, owner, range, typ, pid, thread }, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (owner, range, thread) = (lock_owner(owner), (start, end), req.pid());
        self.locks.set(LockArgs { fh: fh.0, owner, range, typ, pid, thread }, sleep, reply);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.wait(Call::Fsync, reply, move |fs| fs.fsync(fh.0), reply_empty);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.fs.opendir(inode(ino))), FopenFlags::empty());
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(ino, fh, offset, reply);
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list(ino, fh, offset, reply);
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    /// Names are committed when the operations that change them return: nothing is left to do.
    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let usage = self.fs.meta().usage();
        let block = u64::from(BLOCK);
        let blocks = usage.bytes_limit / block;
        let free = usage.bytes_limit.saturating_sub(usage.bytes_used) / block;
        let inodes_free = usage.inodes_limit.saturating_sub(usage.inodes_used);
        reply.statfs(blocks, free, free, usage.inodes_limit, inodes_free, BLOCK, 255, BLOCK);
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if is_status(ino, name) {
            return reply.error(errno(Errno::EPERM));
        }
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let asker = Asker::of(req);
        let set = move |fs: &Fs| {
            fs.setxattr(inode(ino), &name, &value, mode)?;
            if name == ACCESS_LIST {
                fs.clear_set_group_id(inode(ino), |group| asker.may_keep_set_group_id(group))?;
            }
            Ok(())
        };
        self.wait(Call::Setxattr, reply, set, reply_empty);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_status(ino, name) {
            let status = self.reporter.json();
            // Who asks for the length is told one that the next answer fits into.
            return if size == 0 { reply.size(STATUS_LEN) } else { reply_xattr(reply, size, Ok(status)) };
        }
        let name = name.as_bytes().to_vec();
        let done = move |reply, result: Result<bytes::Bytes, Errno>| reply_xattr(reply, size, result);
        self.run(Call::Getxattr, reply, move |fs, cx| fs.getxattr(cx, inode(ino), &name), done);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let done = move |reply, result: Result<Vec<u8>, Errno>| reply_xattr(reply, size, result);
        self.run(Call::Listxattr, reply, move |fs, cx| fs.listxattr(cx, inode(ino)), done);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if is_status(ino, name) {
            return reply.error(errno(Errno::EPERM));
        }
        let name = name.as_bytes().to_vec();
        self.wait(Call::Removexattr, reply, move |fs| fs.removexattr(inode(ino), &name), reply_empty);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keeps_set_id = req.uid() == 0;
        let allocate = move |fs: &Fs| {
            fs.fallocate(fh.0, offset, length, mode)?;
            if keeps_set_id { Ok(()) } else { fs.clear_set_id(fh.0) }
        };
        self.wait(Call::Fallocate, reply, allocate, reply_empty);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(offset) = u64::try_from(offset) else { return reply.error(errno(Errno::ENXIO)) };
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(errno(Errno::EINVAL)),
        };
        let done = |reply: ReplyLseek, result: Result<u64, Errno>| match result {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        };
        self.wait(Call::Lseek, reply, move |fs| fs.seek(fh.0, offset, data), done);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno(Errno::ENOTTY));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let len = len.min(COPY_MAX);
        let range =
            CopyRange { from: fh_in.0, from_offset: offset_in, to: fh_out.0, to_offset: offset_out, len };
        let done = |reply: ReplyWrite, result: Result<u64, Errno>| match result {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        };
        let keeps_set_id = req.uid() == 0;
        let copy = move |fs: &Fs| {
            let copied = fs.copy_range(range)?;
            if !keeps_set_id {
                fs.clear_set_id(range.to)?;
            }
            Ok(copied)
        };
        self.wait(Call::CopyRange, reply, copy, done);
    }
}
