//! Executes presigned requests: plain HTTP with deadlines and bounds, and no credential anywhere.
//!
//! What it fetches is not verified; the caller does that with [`crate::VerifiedBytes::check`].

mod hedge;

use bytes::{Bytes, BytesMut};
use hedge::Hedges;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body, Incoming},
    header,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use sitefs_base::{Error, OsRandom, Random, Result};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout_at};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Object stores close idle connections after 5 to 30 s; one that was closed costs a retry.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const IDLE_PER_HOST: usize = 16;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest pause: a store that is back is noticed within it.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The least that an attempt is given, if so much is left.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// How much of an error's text is read.
const ERROR_TEXT_MAX: usize = 2048;

/// What a PUT found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutOutcome {
    /// The object was written.
    Stored,
    /// Under this key there is an object already.
    Existed,
}

/// An HTTP client for presigned requests. Cheap to clone; connections are shared.
#[derive(Clone, Debug)]
pub struct Transfer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plain: Client<HttpConnector, Full<Bytes>>,
    // Root certificates cost memory, so they are loaded when the first https URL comes (DESIGN D30).
    secure: OnceLock<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    hedges: Hedges,
}

/// Why an attempt failed: another one may help, or not.
enum Failure {
    Retry(Error),
    Final(Error),
}

impl Default for Transfer {
    fn default() -> Self {
        Self::new()
    }
}

impl Transfer {
    /// A client without connections.
    pub fn new() -> Self {
        let plain = builder().build(connector());
        Self { shared: Arc::new(Shared { plain, secure: OnceLock::new(), hedges: Hedges::default() }) }
    }

    /// Sends `body` by a presigned PUT, within `deadline` from now, retries included.
    /// [`sitefs_base::Kind::Denied`]: the grant expired or is wrong, ask for another.
    pub async fn put(
        &self,
        url: &str,
        headers: &[(String, String)],
        body: Bytes,
        deadline: Duration,
    ) -> Result<PutOutcome> {
        let call = Call::new(Method::PUT, url, headers, body)?;
        let mut tries = Tries::within(deadline);
        loop {
            let attempt = async { stored(self.send(&call).await?).await };
            let ended = timeout_at(tries.end(), attempt).await;
            if let Some(outcome) = tries.settle(&call, ended).await? {
                return Ok(outcome);
            }
        }
    }

    /// Fetches an object of at most `max_len` bytes by a presigned GET, within `deadline` from now. A
    /// larger one is [`sitefs_base::Kind::Corrupt`]; no more than `max_len` is ever held. Whether these
    /// are the right bytes is for the digest to say: an extent knows no more of its blob.
    pub async fn get(
        &self,
        url: &str,
        headers: &[(String, String)],
        max_len: u64,
        deadline: Duration,
    ) -> Result<Bytes> {
        let call = Call::new(Method::GET, url, headers, Bytes::new())?;
        let mut tries = Tries::within(deadline);
        loop {
            let attempt = async { up_to(self.send_hedged(&call).await?, max_len).await };
            let ended = timeout_at(tries.end(), attempt).await;
            if let Some(bytes) = tries.settle(&call, ended).await? {
                return Ok(bytes);
            }
        }
    }

    async fn send(&self, call: &Call) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() = call.headers.clone();
        let sent = if call.uri.scheme_str() == Some("https") {
            self.secure().map_err(Failure::Final)?.request(request).await
        } else {
            self.shared.plain.request(request).await
        };
        sent.map_err(|error| Failure::Retry(Error::unavailable("no answer from the store").because(error)))
    }

    fn secure(&self) -> Result<&Client<HttpsConnector<HttpConnector>, Full<Bytes>>> {
        if let Some(client) = self.shared.secure.get() {
            return Ok(client);
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let roots =
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|error| {
                Error::invalid("no root certificates: install the package ca-certificates").because(error)
            })?;
        let secure = roots.https_only().enable_http1().wrap_connector(connector());
        Ok(self.shared.secure.get_or_init(|| builder().build(secure)))
    }
}

/// A request that can be sent again.
struct Call {
    /// Method, host and path, without the signature.
    name: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn new(method: Method, url: &str, headers: &[(String, String)], body: Bytes) -> Result<Self> {
        let name = format!("{method} {}", url.split('?').next().unwrap_or_default());
        let bad = |what: &str| Error::invalid(format!("{name}: the grant has {what}"));
        let uri: Uri = url.parse().map_err(|error| bad("a wrong URL").because(error))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(bad("a URL that is not http or https"));
        }
        let mut map = HeaderMap::new();
        for (key, value) in headers {
            let key =
                header::HeaderName::try_from(key).map_err(|error| bad("a wrong header").because(error))?;
            let value =
                header::HeaderValue::try_from(value).map_err(|error| bad("a wrong header").because(error))?;
            map.append(key, value);
        }
        let len = map.get(header::CONTENT_LENGTH);
        if len.is_some_and(|len| len.as_bytes() != body.len().to_string().as_bytes()) {
            return Err(bad("another length than the blob"));
        }
        Ok(Self { name, method, uri, headers: map, body })
    }
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST);
    builder
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector
}

/// The attempts of one call and their common deadline.
struct Tries {
    until: Instant,
    retries: u32,
}

impl Tries {
    fn within(deadline: Duration) -> Self {
        Self { until: Instant::now() + deadline, retries: 0 }
    }

    /// An attempt gets half of what is left, so that one connection that hangs does not use up the
    /// deadline.
    fn end(&self) -> Instant {
        let now = Instant::now();
        let left = self.until.saturating_duration_since(now);
        now + (left / 2).max(left.min(ATTEMPT_MIN))
    }

    /// The result of an attempt, if it is final; else pauses, and another attempt may begin.
    async fn settle<T>(
        &mut self,
        call: &Call,
        ended: Result<Result<T, Failure>, tokio::time::error::Elapsed>,
    ) -> Result<Option<T>> {
        let error = match ended {
            Ok(Ok(done)) => return Ok(Some(done)),
            Ok(Err(Failure::Final(error))) => return Err(error.while_doing(&call.name)),
            Ok(Err(Failure::Retry(error))) => error.while_doing(&call.name),
            Err(_) => Error::unavailable(format!("{}: no answer in time", call.name)),
        };
        let pause = backoff(self.retries);
        if Instant::now() + pause >= self.until {
            return Err(error);
        }
        tracing::debug!(error = %error.chain(), "a transfer failed and is tried again");
        sleep(pause).await;
        self.retries += 1;
        Ok(None)
    }
}

/// Between half and all of 50, 100, 200 ms and so on up to 2 s.
fn backoff(retries: u32) -> Duration {
    let full = (BACKOFF_FIRST * 2_u32.pow(retries.min(10))).min(BACKOFF_MAX);
    let share = u32::try_from(OsRandom.next_u64() % 1000).unwrap_or(0);
    full / 2 + full / 2 * share / 1000
}

async fn stored(response: Response<Incoming>) -> Result<PutOutcome, Failure> {
    match response.status() {
        StatusCode::PRECONDITION_FAILED => Ok(PutOutcome::Existed),
        status if status.is_success() => {
            // Read to the end, so that the connection can be used again.
            drop(read_up_to(response.into_body(), ERROR_TEXT_MAX).await);
            Ok(PutOutcome::Stored)
        }
        _ => Err(refusal(response).await),
    }
}

async fn up_to(response: Response<Incoming>, max_len: u64) -> Result<Bytes, Failure> {
    let too_long = || Failure::Final(Error::corrupt(format!("the object has more than {max_len} bytes")));
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let mut body = response.into_body();
    let announced = body.size_hint().exact().unwrap_or(0);
    if announced > max_len {
        return Err(too_long());
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failure::Retry(Error::unavailable("the answer broke off").because(error)))?;
        let Ok(piece) = frame.into_data() else { continue };
        if (bytes.len() + piece.len()) as u64 > max_len {
            return Err(too_long());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// The error of an answer that is no success.
async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let text = read_up_to(response.into_body(), ERROR_TEXT_MAX).await;
    let text = String::from_utf8_lossy(&text);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map_or("", |(code, _)| code);
    let doing = match code {
        "" => format!("the store answers {status}"),
        code => format!("the store answers {status}, {code}"),
    };
    match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Failure::Final(Error::denied(doing)),
        // Any other 404, as of a missing bucket, says nothing about the object.
        StatusCode::NOT_FOUND if matches!(code, "" | "NoSuchKey") => Failure::Final(Error::not_found(doing)),
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Retry(Error::unavailable(doing))
        }
        // What S3 says with a 400 of a body that did not arrive whole and in time.
        StatusCode::BAD_REQUEST if matches!(code, "RequestTimeout" | "IncompleteBody") => {
            Failure::Retry(Error::unavailable(doing))
        }
        _ if status.is_server_error() => Failure::Retry(Error::unavailable(doing)),
        _ => Failure::Final(Error::invalid(doing)),
    }
}

/// At most `max` bytes of a body, for messages: what breaks off is good enough.
async fn read_up_to(mut body: Incoming, max: usize) -> BytesMut {
    let mut bytes = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else { continue };
        let room = max - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if bytes.len() == max {
            break;
        }
    }
    bytes
}
