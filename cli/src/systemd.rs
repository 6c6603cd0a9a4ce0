//! Tells a service manager how the process stands: sd_notify(3) without its library.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The process does what it is there for.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={}", one_line(status)));
}

/// The process ends, and may take so many seconds for it.
pub(crate) fn stopping(status: &str, seconds: u64) {
    tell(&format!("STOPPING=1\nSTATUS={}\nEXTEND_TIMEOUT_USEC={}", one_line(status), seconds * 1_000_000));
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Nothing happens unless `NOTIFY_SOCKET` says where to.
fn tell(message: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop));
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager cannot be told how this process stands");
    }
}
