//! The log of a mount in the background: lines to syslog, which systemd's journal takes in too.

use std::{io, os::unix::net::UnixDatagram};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where syslog listens.
const SOCKET: &str = "/dev/log";
/// The facility of system daemons, as RFC 3164 counts.
const DAEMON: u8 = 3 << 3;

/// Makes a line of each event.
pub(crate) struct Syslog(Option<UnixDatagram>);

impl Syslog {
    /// To `/dev/log`. Without it the lines go nowhere: there is no other place for them.
    pub(crate) fn open() -> Self {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(SOCKET)?;
            // A full queue must not hold up the mount.
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        Self(connect().ok())
    }
}

/// One event; sent when it is complete.
pub(crate) struct Line<'a> {
    socket: Option<&'a UnixDatagram>,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line(6)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        self.line(match *event.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        })
    }
}

impl Syslog {
    fn line(&self, severity: u8) -> Line<'_> {
        let head = format!("<{}>sitefs[{}]: ", DAEMON | severity, std::process::id());
        Line { socket: self.0.as_ref(), text: head.into_bytes() }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket {
            // Nobody is left to tell.
            let _ = socket.send(self.text.trim_ascii_end());
        }
    }
}
