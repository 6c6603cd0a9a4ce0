//! An S3 store with switchable faults: its own small one in memory, or a way to a real one.
//!
//! It knows what sitefs asks for: PUT (also conditional), GET, HEAD, DELETE and listings of one bucket. The one in
//! memory believes every signature and only compares the time of signing with its clock; a real one checks
//! what it always checks, because nothing of a request is changed on its way.

mod http;
mod objects;

use http::{Answer, Request};
use objects::Objects;
use std::{
    collections::BTreeMap,
    io::BufReader,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long a request that is not answered waits before it looks whether it should go on.
const LOOK: Duration = Duration::from_millis(50);
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(60);

/// What is wrong with the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Says this, and does nothing.
    Refuses(u16, &'static str),
    /// Takes the request and never answers, until the store is mended.
    Silent,
    /// Closes the connection before the answer, and does nothing.
    Resets,
    /// Does what it was asked for, and closes the connection before the answer.
    LosesReply,
    /// Half of the body of the answer, then closes.
    CutsBody,
    /// Half of the body, with a length that fits.
    Truncates,
    /// One bit of the body is wrong.
    Corrupts,
    /// Answers after that time.
    Late(Duration),
    /// Says that a PUT is done, and keeps nothing.
    LosesPut,
    /// Keeps half of what was put.
    HalvesPut,
    /// Lists nothing.
    ListsNothing,
}

/// A fault, for which requests, and how often still.
#[derive(Clone, Copy, Debug)]
struct Rule {
    fault: Fault,
    method: Option<&'static str>,
    times: Option<u32>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// Requests by method.
    requests: BTreeMap<String, u64>,
    /// Requests that are being answered, and the most of them at a time.
    running: u64,
    running_max: u64,
    /// Whose signature the last request had.
    last_key: String,
}

struct Shared {
    objects: Objects,
    target: Option<String>,
    state: Mutex<State>,
    mended: Condvar,
    ended: AtomicBool,
    /// Seconds that its clock is ahead.
    ahead: AtomicI64,
    faults: AtomicU64,
}

/// The store; it ends when this is dropped.
pub struct FaultyStore {
    address: String,
    shared: Arc<Shared>,
}

impl FaultyStore {
    /// A store in memory.
    pub fn in_memory() -> Self {
        Self::start(None)
    }

    /// A way to the store at `HOST:PORT`.
    pub fn before(target: &str) -> Self {
        Self::start(Some(target.to_owned()))
    }

    fn start(target: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
        let address = listener.local_addr().expect("the address").to_string();
        let shared = Arc::new(Shared {
            objects: Objects::default(),
            target,
            state: Mutex::default(),
            mended: Condvar::new(),
            ended: AtomicBool::new(false),
            ahead: AtomicI64::new(0),
            faults: AtomicU64::new(0),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), own) = (stream, Arc::clone(&own)) else { continue };
                std::thread::spawn(move || own.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every request of `method` (all methods if `None`) meets `fault`, at most `times` times.
    pub fn breaks(&self, fault: Fault, method: Option<&'static str>, times: Option<u32>) {
        self.shared.state().rules.push(Rule { fault, method, times });
    }

    /// No faults any more; what was not answered is answered by closing the connection.
    pub fn mend(&self) {
        self.shared.state().rules.clear();
        self.shared.mended.notify_all();
    }

    /// Sets its clock that many seconds ahead: signatures are refused beyond 15 minutes.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.shared.ahead.store(seconds, Ordering::SeqCst);
    }

    /// Requests so far, all of them or those of a method.
    pub fn requests(&self, method: Option<&str>) -> u64 {
        let state = self.shared.state();
        let counted = state.requests.iter().filter(|(name, _)| method.is_none_or(|method| method == *name));
        counted.map(|(_, count)| count).sum()
    }

    /// The most requests that were under way at a time since this was asked last.
    pub fn most_at_a_time(&self) -> u64 {
        let mut state = self.shared.state();
        let running = state.running;
        std::mem::replace(&mut state.running_max, running)
    }

    /// The access key id of the last request.
    pub fn last_key(&self) -> String {
        self.shared.state().last_key.clone()
    }

    /// Requests that met a fault.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::SeqCst)
    }

    /// The keys and contents of the store in memory.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.shared.objects.all()
    }
}

impl Drop for FaultyStore {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.mend();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request and takes the first fault that is for it.
    fn meet(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        *state.requests.entry(request.method.clone()).or_default() += 1;
        state.last_key = request.access_key().unwrap_or_default();
        state.running += 1;
        state.running_max = state.running_max.max(state.running);
        let fits = |rule: &&mut Rule| {
            rule.method.is_none_or(|method| method == request.method) && rule.times != Some(0)
        };
        let rule = state.rules.iter_mut().find(fits)?;
        rule.times = rule.times.map(|times| times - 1);
        self.faults.fetch_add(1, Ordering::SeqCst);
        Some(rule.fault)
    }

    /// Waits until the store is mended.
    fn wait_until_mended(&self) {
        let mut state = self.state();
        while state.rules.iter().any(|rule| rule.fault == Fault::Silent) && !self.ended.load(Ordering::SeqCst)
        {
            let waited = self.mended.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Answers the requests of a connection; whatever goes wrong ends it.
    fn serve(&self, stream: TcpStream) {
        let _ = self.converse(&stream);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn converse(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IDLE))?;
        let mut reader = BufReader::with_capacity(256 << 10, stream);
        while let Some(request) = Request::read(&mut reader, stream)? {
            let fault = self.meet(&request);
            let goes_on = self.respond(fault, &request, stream);
            self.state().running -= 1;
            if !goes_on? {
                break;
            }
        }
        Ok(())
    }

    /// Answers a request; whether the connection stays open.
    fn respond(&self, fault: Option<Fault>, request: &Request, stream: &TcpStream) -> std::io::Result<bool> {
        match fault {
            None => self.answer(request)?.write(request, stream)?,
            Some(Fault::Silent) => {
                self.wait_until_mended();
                return Ok(false);
            }
            Some(Fault::Resets) => return Ok(false),
            Some(Fault::LosesReply) => return self.answer(request).map(|_| false),
            Some(Fault::Late(time)) => {
                std::thread::sleep(time);
                self.answer(request)?.write(request, stream)?;
            }
            Some(Fault::CutsBody) => {
                self.answer(request)?.write_half(request, stream)?;
                return Ok(false);
            }
            Some(fault) => self.wrong(fault, request)?.write(request, stream)?,
        }
        Ok(true)
    }

    /// An answer that is wrong.
    fn wrong(&self, fault: Fault, request: &Request) -> std::io::Result<Answer> {
        match fault {
            Fault::Refuses(status, code) => Ok(Answer::error(status, code)),
            Fault::LosesPut if request.method == "PUT" => Ok(Answer::empty(200)),
            Fault::HalvesPut if request.method == "PUT" => {
                self.answer(&Request { body: half(&request.body), ..request.clone() })
            }
            Fault::Truncates => {
                let answer = self.answer(request)?;
                Ok(Answer { body: half(&answer.body), ..answer })
            }
            Fault::Corrupts => {
                let mut answer = self.answer(request)?;
                let middle = answer.body.len() / 2;
                answer.body.get_mut(middle).into_iter().for_each(|byte| *byte ^= 4);
                Ok(answer)
            }
            Fault::ListsNothing if request.is_listing() => Ok(Answer::listing("", false)),
            _ => self.answer(request),
        }
    }

    fn answer(&self, request: &Request) -> std::io::Result<Answer> {
        if let Some(target) = &self.target {
            return request.forward(target);
        }
        let now = http::now() + self.ahead.load(Ordering::SeqCst);
        let mut answer = match request.signed_at() {
            Some(at) if (now - at).abs() > 900 => Answer::error(403, "RequestTimeTooSkewed"),
            _ => self.objects.answer(request),
        };
        answer.headers.push(("Date".to_owned(), http::date(now)));
        Ok(answer)
    }
}

fn half(body: &[u8]) -> Vec<u8> {
    body[..body.len() / 2].to_vec()
}
