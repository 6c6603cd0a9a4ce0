//! A way to a cell that can be cut without either end noticing: bytes just stop coming.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// How soon a copying thread notices that it is to end.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    held: bool,
    ended: bool,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

impl Gate {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.notify_all();
    }

    /// Waits while the way is cut; whether to go on.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.moved.wait_while(state, |state| state.held && !state.ended);
        !state.unwrap_or_else(PoisonError::into_inner).ended
    }
}

/// Carries connections to an address.
pub struct Proxy {
    address: String,
    gate: Arc<Gate>,
}

impl Proxy {
    /// A way to `target`.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
        let address = listener.local_addr().expect("the address").to_string();
        let (gate, target) = (Arc::new(Gate::default()), target.to_owned());
        let own = Arc::clone(&gate);
        std::thread::spawn(move || {
            for inbound in listener.incoming() {
                if !own.pass() {
                    return;
                }
                let (Ok(inbound), Ok(outbound)) = (inbound, TcpStream::connect(&target)) else { continue };
                carry(&inbound, &outbound, &own);
                carry(&outbound, &inbound, &own);
            }
        });
        Self { address, gate }
    }

    /// Where to connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts the way.
    pub fn cut(&self) {
        self.gate.set(|state| state.held = true);
    }

    /// Opens it again; what was sent meanwhile arrives.
    pub fn mend(&self) {
        self.gate.set(|state| state.held = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.set(|state| state.ended = true);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

fn carry(from: &TcpStream, to: &TcpStream, gate: &Arc<Gate>) {
    let gate = Arc::clone(gate);
    let (mut from, mut to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
    from.set_read_timeout(Some(LOOK)).expect("a timeout");
    to.set_nodelay(true).expect("no delay");
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
                Err(_) => break,
            };
            if !gate.pass() || to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        // Both ends may be gone already.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
