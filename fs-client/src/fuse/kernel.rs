//! Mounting: by mount(2) as type `fuse.sitefs`, or by fusermount3 for users who may not.

use super::adapter::Adapter;
use super::backing::Backing;
use super::notify::Device;
use crate::fs::Fs;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::mount::{MountFlags, UnmountFlags};
use sitefs_base::{Error, Result};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    sync::atomic::Ordering,
};

/// Threads that read requests: what can be answered at once never waits behind a large write.
const READERS: usize = 2;

/// What the kernel does about access times. Reading never moves those of sitefs; this is what mount
/// tables show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Atime {
    /// As the kernel likes.
    #[default]
    Default,
    /// Never moved.
    Never,
    /// Moved now and then.
    Relative,
    /// Always moved.
    Strict,
}

/// What the kernel is told of a mount beside its options. By default programs may be run, and neither
/// set-id bits nor devices count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelFlags {
    /// Set-id bits count.
    pub suid: bool,
    /// Device nodes are devices.
    pub dev: bool,
    /// No program may be run.
    pub noexec: bool,
    /// Access times.
    pub atime: Atime,
    /// Access times of directories never move.
    pub nodiratime: bool,
}

impl KernelFlags {
    fn bits(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::NOSUID, !self.suid);
        flags.set(MountFlags::NODEV, !self.dev);
        flags.set(MountFlags::NOEXEC, self.noexec);
        flags.set(MountFlags::NOATIME, self.atime == Atime::Never);
        flags.set(MountFlags::RELATIME, self.atime == Atime::Relative);
        flags.set(MountFlags::STRICTATIME, self.atime == Atime::Strict);
        flags.set(MountFlags::NODIRATIME, self.nodiratime);
        flags
    }

    /// The same for fusermount3, which refuses what users may not have.
    fn options(self) -> Vec<MountOption> {
        let mut options = Vec::new();
        let mut set = |set: bool, option: MountOption| {
            if set {
                options.push(option);
            }
        };
        set(self.suid, MountOption::Suid);
        set(self.dev, MountOption::Dev);
        set(self.noexec, MountOption::NoExec);
        set(self.atime == Atime::Never, MountOption::NoAtime);
        options
    }
}

/// How a volume is mounted.
#[derive(Clone, Debug)]
pub struct MountArgs {
    /// Where.
    pub mountpoint: PathBuf,
    /// What mount tables show as source: `CELL:VOLUME`.
    pub source: String,
    /// Whether writing is refused by the kernel already.
    pub read_only: bool,
    /// Whether users other than the one who mounts may enter.
    pub allow_other: bool,
    /// What else the kernel is told.
    pub flags: KernelFlags,
}

/// A mount in the kernel.
pub struct KernelMount {
    session: Option<BackgroundSession>,
    mountpoint: PathBuf,
    /// Mounted by mount(2); otherwise fuser unmounts through fusermount3.
    own: bool,
}

fn no_fuse(error: std::io::Error) -> Error {
    Error::io("opening /dev/fuse: is the fuse module loaded, and may this container use it?", error)
}

impl KernelMount {
    /// Mounts, and answers requests with `adapter`.
    pub fn start(args: &MountArgs, adapter: Adapter) -> Result<(Self, Device)> {
        let acl = if args.allow_other { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(READERS);
        let own = rustix::process::geteuid().is_root();
        let lock_threads = adapter.lock_threads();
        let (fs, passthrough) = adapter.served();
        let failed = |error| Error::io(format!("mounting on {}", args.mountpoint.display()), error);
        let session = if own {
            let device = open_device()?;
            mount_here(args, &device)?;
            Session::from_fd(adapter, device, acl, config).map_err(failed)
        } else {
            config.mount_options = vec![
                MountOption::FSName(args.source.clone()),
                MountOption::Subtype("sitefs".into()),
                MountOption::DefaultPermissions,
                if args.read_only { MountOption::RO } else { MountOption::RW },
            ];
            config.mount_options.extend(args.flags.options());
            Session::new(adapter, &args.mountpoint, &config).map_err(failed)
        };
        let session = session.inspect_err(|_| {
            if own {
                let _ = rustix::mount::unmount(&args.mountpoint, UnmountFlags::DETACH);
            }
        })?;
        let device = session.as_fd().try_clone_to_owned().map_err(failed)?;
        if passthrough.load(Ordering::Acquire) {
            begin_passthrough(&fs, device.try_clone().map_err(failed)?);
        }
        if let Some(threads) = lock_threads {
            threads.start(session.notifier()).map_err(failed)?;
        }
        let device = Device::new(session.notifier(), device);
        let session = session.spawn().map_err(failed)?;
        Ok((Self { session: Some(session), mountpoint: args.mountpoint.clone(), own }, device))
    }

    /// The kernel has ended the session: there is nothing left to unmount, and what is mounted at the
    /// same place now is not ours.
    pub fn has_ended(&mut self) {
        if self.own {
            self.session = None;
        }
    }

    /// Unmounts. A mount in use leaves the tree at once and ends when its last user does.
    pub fn unmount(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if !self.own {
            let failed = |error| Error::io(format!("unmounting {}", self.mountpoint.display()), error);
            return session.umount_and_join().map_err(failed);
        }
        if session.guard.is_finished() {
            return Ok(());
        }
        let unmounted = rustix::mount::unmount(&self.mountpoint, UnmountFlags::NOFOLLOW)
            .or_else(|_| rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH));
        match unmounted {
            // Not a mount point: somebody else has unmounted it, and the session is about to end.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(error) => Err(Error::io(format!("unmounting {}", self.mountpoint.display()), error.into())),
        }
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::error!(error = error.chain(), "the mount stays behind");
        }
    }
}

/// Passthrough is never needed: without it reads are served as ever.
fn begin_passthrough(fs: &Fs, device: OwnedFd) {
    match Backing::lender(device, fs.work_dir()) {
        Ok(lender) => fs.blobs().loans().begin(lender),
        Err(error) => tracing::info!(%error, "this mount does not use passthrough"),
    }
}

fn open_device() -> Result<OwnedFd> {
    File::options().read(true).write(true).open("/dev/fuse").map(OwnedFd::from).map_err(no_fuse)
}

fn mount_here(args: &MountArgs, device: &OwnedFd) -> Result<()> {
    let mut options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    if args.allow_other {
        options.push_str(",allow_other");
    }
    let mut flags = args.flags.bits();
    if args.read_only {
        flags |= MountFlags::RDONLY;
    }
    let options = std::ffi::CString::new(options).map_err(|_| Error::internal("mount options hold a NUL"))?;
    rustix::mount::mount(args.source.as_str(), &args.mountpoint, "fuse.sitefs", flags, options.as_c_str())
        .map_err(|error| Error::io(format!("mounting on {}", args.mountpoint.display()), error.into()))
}
