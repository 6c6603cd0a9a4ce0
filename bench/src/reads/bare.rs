//! The least that a file system with passthrough can be: files of one directory, for reading, one id for each.
//! It answers flushes, as a file system with fcntl locks has to.

use fuser::{
    BackingId, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen,
    Request, SessionACL,
};
use sitefs_base::{Error, Result};
use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

const KEEP: Duration = Duration::from_secs(3600);

/// Where an inode is, and its id once it was opened.
type Files = HashMap<u64, (PathBuf, Option<BackingId>)>;

struct Bare {
    dir: PathBuf,
    files: Mutex<Files>,
}

/// Serves the files of one directory at another until it is unmounted.
pub(crate) fn serve(dir: &Path, mount: &Path) -> Result<()> {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::RO, MountOption::FSName("bare".to_owned()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    let bare = Bare { dir: dir.to_owned(), files: Mutex::default() };
    fuser::mount(bare, mount, &config).map_err(|error| Error::io("serving the bare passthrough", error))
}

fn attr(ino: INodeNo, meta: &Metadata) -> FileAttr {
    let kind = if meta.is_dir() { FileType::Directory } else { FileType::RegularFile };
    FileAttr {
        ino,
        size: meta.len(),
        blocks: meta.blocks(),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if meta.is_dir() { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Bare {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        if offered && config.set_max_stack_depth(1).is_ok() {
            Ok(())
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.dir.join(name);
        let Ok(meta) = fs::metadata(&path) else { return reply.error(Errno::ENOENT) };
        self.files().entry(meta.ino()).or_insert((path, None));
        reply.entry(&KEEP, &attr(INodeNo(meta.ino()), &meta), Generation(0));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let path = match self.files().get(&ino.0) {
            Some((path, _)) => path.clone(),
            None => self.dir.clone(),
        };
        match fs::metadata(path) {
            Ok(meta) => reply.attr(&KEEP, &attr(ino, &meta)),
            Err(_) => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut files = self.files();
        let Some((path, id)) = files.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        if id.is_none() {
            *id = File::open(path).and_then(|file| reply.open_backing(file)).ok();
        }
        match id {
            Some(id) => reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), id),
            None => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
