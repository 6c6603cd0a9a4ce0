//! `--metrics ADDR`: the page that Prometheus reads, by a listener of its own. It knows one request,
//! `GET /metrics`, and is bounded in everything that a client can do to it.

use sitefs_base::{Error, Result, Tasks, metrics::Exposition};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Clients at a time.
const CLIENTS_MAX: usize = 8;
/// The longest request, in bytes.
const REQUEST_MAX: usize = 8 * 1024;
/// How long a client has to ask, and to take the answer.
const CLIENT_TIME: Duration = Duration::from_secs(5);

/// Makes the page.
pub(crate) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// A listener; it ends when this is dropped.
pub(crate) struct Exporter {
    address: SocketAddr,
    _tasks: Tasks,
}

impl Exporter {
    /// Begins to serve `page`; port 0 chooses a free one.
    pub(crate) async fn start(address: SocketAddr, page: Page) -> Result<Self> {
        let failed = |error| Error::io(format!("listening on {address} for metrics"), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tasks = Tasks::new();
        tasks.spawn(serve(listener, page, tasks.clone()));
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts one if it was asked for.
pub(crate) async fn maybe(address: Option<SocketAddr>, page: Page) -> Result<Option<Exporter>> {
    match address {
        Some(address) => Exporter::start(address, page).await.map(Some),
        None => Ok(None),
    }
}

/// Two pages as one: what both say of the process is said once.
#[cfg(all(feature = "server", feature = "mount"))]
pub(crate) fn joined(one: &str, other: &str) -> String {
    let mut known = std::collections::HashSet::new();
    let mut page = String::with_capacity(one.len() + other.len());
    for (first, text) in [(true, one), (false, other)] {
        let mut taken = true;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("# HELP ").and_then(|rest| rest.split(' ').next()) {
                taken = known.insert(name.to_owned()) || first;
            }
            if taken {
                page.push_str(line);
                page.push('\n');
            }
        }
    }
    page
}

async fn serve(listener: TcpListener, page: Page, tasks: Tasks) {
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = page.clone();
                tasks.spawn(async move {
                    let _place = place;
                    // A client that goes away or dawdles gets nothing.
                    let _ = timeout(CLIENT_TIME, answer(stream, page)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the listener for metrics does not accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, page: Page) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let reply = match head.as_deref().map(first_line) {
        Some(Some(("GET", "/metrics"))) => response("200 OK", Exposition::MEDIA_TYPE, &page()),
        Some(Some(("GET", _))) => response("404 Not Found", "text/plain", "there is /metrics here\n"),
        Some(Some(_)) => response("405 Method Not Allowed", "text/plain", "GET only\n"),
        _ => response("400 Bad Request", "text/plain", "not a request\n"),
    };
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// The request up to its empty line; `None` if it is too long or ends early.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut piece).await?;
        if read == 0 || head.len() + read > REQUEST_MAX {
            return Ok(None);
        }
        head.extend_from_slice(&piece[..read]);
    }
    Ok(Some(head))
}

/// Method and path, without what is asked of it.
fn first_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some((method, target.split('?').next().unwrap_or(target)))
}

fn response(status: &str, kind: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_or_refused() {
        assert_eq!(first_line(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(("GET", "/metrics")));
        assert_eq!(first_line(b"POST / HTTP/1.0\r\n\r\n"), Some(("POST", "/")));
        for bad in
            [&b"GET /metrics\r\n\r\n"[..], b"\r\n\r\n", b"GET / SPDY\r\n\r\n", b"\xff\xfe / HTTP/1.1\r\n"]
        {
            assert_eq!(first_line(bad), None);
        }
    }

    #[cfg(all(feature = "server", feature = "mount"))]
    #[test]
    fn what_two_pages_share_is_said_once() {
        let (one, two) = ("# HELP a x\na 1\n# HELP b y\nb 2\n", "# HELP a x\na 3\n# HELP c z\nc 4\n");
        assert_eq!(joined(one, two), "# HELP a x\na 1\n# HELP b y\nb 2\n# HELP c z\nc 4\n");
    }

    #[tokio::test]
    async fn a_client_gets_the_page_and_a_babbler_does_not() {
        let page: Page = Arc::new(|| "x 1\n".to_owned());
        let exporter = Exporter::start("127.0.0.1:0".parse().unwrap(), page).await.unwrap();
        let ask = async |request: &[u8]| {
            let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
            stream.write_all(request).await.unwrap();
            let mut reply = String::new();
            // What is refused early may end with a reset.
            let _ = stream.read_to_string(&mut reply).await;
            reply
        };
        let reply = ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\nx 1\n"), "{reply}");
        assert!(ask(b"GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(!ask(&vec![b'a'; REQUEST_MAX + 1]).await.contains("200"));
    }
}
