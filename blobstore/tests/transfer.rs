//! Transfers against a small server that answers as told, faults included.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "transfer")]

use bytes::Bytes;
use sitefs_base::{Kind, Result, Tasks};
use sitefs_blobstore::{PutOutcome, Transfer};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LONG: Duration = Duration::from_secs(20);

/// How the server answers one request.
#[derive(Clone)]
enum Answer {
    /// A status line's number and text, and a body with its length.
    Full(&'static str, &'static str),
    /// 200, a length, and less than that before the connection is reset.
    Reset { announced: usize, sent: &'static str },
    /// 200 without a length: the body ends with the connection.
    Unmeasured(&'static str),
    /// Nothing, for ever.
    Silence,
}

/// A server that uses up its answers, one per connection; the last one repeats.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: Tasks,
}

impl Server {
    async fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let (seen, mut answers) = (requests.clone(), answers.iter().cloned().collect::<VecDeque<_>>());
        let connections = Tasks::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer =
                    if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
                connections.spawn(serve(stream, answer, seen.clone()));
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("http://{}/bucket/key?X-Amz-Signature=secret", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    async fn get(&self, len: u64, deadline: Duration) -> Result<Bytes> {
        Transfer::new().get(&self.url(), &[], len, deadline).await
    }

    async fn put(&self, body: &'static str) -> Result<PutOutcome> {
        let headers = [
            ("content-length".to_owned(), body.len().to_string()),
            ("if-none-match".to_owned(), "*".to_owned()),
        ];
        Transfer::new().put(&self.url(), &headers, Bytes::from_static(body.as_bytes()), LONG).await
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, seen: Arc<Mutex<Vec<String>>>) {
    let request = read_request(&mut stream).await;
    seen.lock().unwrap().push(request);
    match answer {
        Answer::Full(status, body) => {
            let len = body.len();
            let text =
                format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        Answer::Reset { announced, sent } => {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {announced}\r\n\r\n{sent}");
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            stream.set_zero_linger().unwrap();
        }
        Answer::Unmeasured(body) => {
            let text = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(text.as_bytes()).await;
        }
        Answer::Silence => std::future::pending().await,
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).await.unwrap();
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_ne!(read, 0, "the request broke off");
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if read == 0 || body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

const OK: Answer = Answer::Full("200 OK", "hello");
const BUSY: Answer = Answer::Full("500 Internal Server Error", "<Error><Code>InternalError</Code></Error>");

#[tokio::test]
async fn two_server_errors_and_then_the_bytes() {
    let server = Server::start(&[BUSY, BUSY, OK]).await;
    assert_eq!(server.get(5, LONG).await.unwrap(), "hello");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn retries_end_and_the_error_hides_the_signature() {
    let server = Server::start(&[BUSY]).await;
    let error = server.get(5, Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let requests = server.requests().len();
    assert!((4..=10).contains(&requests), "{requests} requests: no busy loop, no early end");
    assert!(error.chain().contains("500 Internal Server Error, InternalError"), "{}", error.chain());
    assert!(!error.chain().contains("secret"));
}

#[tokio::test]
async fn a_reset_in_the_body_is_tried_again() {
    let server = Server::start(&[Answer::Reset { announced: 5, sent: "he" }, OK]).await;
    assert_eq!(server.get(5, LONG).await.unwrap(), "hello");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_longer_body_is_corrupt_a_shorter_one_is_for_the_digest_to_judge() {
    for answer in [OK, Answer::Unmeasured("hello")] {
        let server = Server::start(std::slice::from_ref(&answer)).await;
        assert_eq!(server.get(4, LONG).await.unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(server.requests().len(), 1);
        let server = Server::start(std::slice::from_ref(&answer)).await;
        assert_eq!(server.get(6, LONG).await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_put_sends_its_headers_and_bytes() {
    let server = Server::start(&[BUSY, OK]).await;
    assert_eq!(server.put("content").await.unwrap(), PutOutcome::Stored);
    let request = server.requests().pop().unwrap();
    assert!(request.starts_with("PUT /bucket/key?X-Amz-Signature=secret HTTP/1.1\r\n"));
    assert!(request.contains("\r\nif-none-match: *\r\n") && request.ends_with("\r\n\r\ncontent"));
    assert_eq!(request.matches("content-length").count(), 1);
}

#[tokio::test]
async fn a_put_of_what_is_there_says_so() {
    let server = Server::start(&[Answer::Full("412 Precondition Failed", "")]).await;
    assert_eq!(server.put("content").await.unwrap(), PutOutcome::Existed);
}

#[tokio::test]
async fn refusals_are_final_and_have_kinds() {
    let table = [
        ("403 Forbidden", "", Kind::Denied),
        ("404 Not Found", "", Kind::NotFound),
        ("404 Not Found", "<Code>NoSuchKey</Code>", Kind::NotFound),
        ("404 Not Found", "<Code>NoSuchBucket</Code>", Kind::Invalid),
        ("400 Bad Request", "", Kind::Invalid),
    ];
    for (status, body, kind) in table {
        let server = Server::start(&[Answer::Full(status, body)]).await;
        assert_eq!(server.get(5, LONG).await.unwrap_err().kind(), kind);
        assert_eq!(server.put("content").await.unwrap_err().kind(), kind);
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn the_deadline_holds_when_the_server_says_nothing() {
    let server = Server::start(&[Answer::Silence]).await;
    let start = Instant::now();
    let error = server.get(5, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn one_connection_that_hangs_does_not_use_up_the_deadline() {
    let server = Server::start(&[Answer::Silence, OK]).await;
    assert_eq!(server.get(5, Duration::from_secs(2)).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_asked_for_again_beside_it() {
    let server = Server::start(&[Answer::Silence, OK]).await;
    let start = Instant::now();
    assert_eq!(server.get(5, LONG).await.unwrap(), "hello");
    assert!(start.elapsed() < LONG / 4, "{:?}: the first was not waited for", start.elapsed());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unavailable() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{gone}/key");
    let error = Transfer::new().get(&url, &[], 5, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_grant_that_does_not_fit_is_refused_before_anything_is_sent() {
    let headers = [("content-length".to_owned(), "9".to_owned())];
    let put = Transfer::new().put("http://127.0.0.1:1/", &headers, Bytes::from_static(b"x"), LONG).await;
    assert_eq!(put.unwrap_err().kind(), Kind::Invalid);
    let get = Transfer::new().get("ftp://127.0.0.1/", &[], 1, LONG).await;
    assert_eq!(get.unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn transfers_can_move_between_threads() {
    fn sendable<T: Send>(_: T) {}
    let transfer = Transfer::new();
    sendable(transfer.get("http://x/", &[], 1, LONG));
    sendable(transfer.put("http://x/", &[], Bytes::new(), LONG));
}
