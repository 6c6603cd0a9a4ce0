//! What is asked of the kernel at the handshake.

use fuser::{InitFlags, KernelConfig};

/// Not `FUSE_ATOMIC_O_TRUNC`: with it an open that is then refused, because the file is a running program
/// (ETXTBSY), has emptied the file already.
///
/// A handle must not be NOFLUSH (`backing`): its fcntl locks would stay when it is closed.
pub(super) fn wanted_capabilities() -> [InitFlags; 8] {
    [
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_POSIX_LOCKS,
        InitFlags::FUSE_FLOCK_LOCKS,
    ]
}

/// Asks for passthrough; whether the kernel offers it. File systems can still be stacked on the mount, so the
/// cache cannot be on one that is stacked itself.
pub(super) fn want_passthrough(config: &mut KernelConfig) -> bool {
    config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok()
}
