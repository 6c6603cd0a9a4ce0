//! What is asked of the kernel at the handshake.

use fuser::InitFlags;

/// Not `FUSE_ATOMIC_O_TRUNC`: with it an open that is then refused, because the file is a running program
/// (ETXTBSY), has emptied the file already.
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
