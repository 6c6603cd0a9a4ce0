//! S3 and what speaks its protocol: AWS, MinIO, Ceph RGW, versitygw.
//!
//! The traps that the settings here avoid are: default CRC32 trailers that many stores refuse, stalled
//! stream protection that fails on slow stores, and checksums in the query of a presigned URL, which
//! stores ignore (this SDK signs them as headers).

mod error;
mod owner;
mod probe;

use super::{Backend, BoxFuture, Listed, OBJECT_MAX, SignedRequest};
use crate::ObjectKey;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
    presigning::{PresignedRequest, PresigningConfig},
    primitives::ByteStream,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use error::Meaning;
use sitefs_base::{Clock, Digest, Error, Kind, Result, Time};
use std::{
    env, fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;
/// What S3 gives in one page at most.
const LIST_PAGE_MAX: usize = 1000;
/// Objects are immutable and their type says nothing.
const CONTENT_TYPE: &str = "application/octet-stream";

/// The keys to a bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id, which is no secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
    /// The token of temporary keys.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.access_key_id)
    }
}

impl Credentials {
    /// Takes the keys from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if set, `AWS_SESSION_TOKEN`.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let need = |name: &str| {
            set(name).ok_or_else(|| {
                Error::invalid(format!(
                    "no S3 credentials: set {name} (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are needed)"
                ))
            })
        };
        Ok(Self {
            access_key_id: need("AWS_ACCESS_KEY_ID")?,
            secret_access_key: need("AWS_SECRET_ACCESS_KEY")?,
            session_token: set("AWS_SESSION_TOKEN"),
        })
    }
}

/// Where the objects are.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// The URL of a store that is not AWS; requests to it are path style.
    pub endpoint: Option<String>,
    /// The bucket, which must exist.
    pub bucket: String,
    /// The region; needed for AWS, `us-east-1` for other stores unless given.
    pub region: Option<String>,
    /// The keys; from the environment when absent.
    pub credentials: Option<Credentials>,
}

/// Keeps objects in a bucket and signs requests to it.
pub struct S3Backend {
    client: Client,
    bucket: String,
    /// The endpoint or region, for messages.
    place: String,
    clock: Arc<dyn Clock>,
    enforces_digest: AtomicBool,
}

impl fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Backend({})", self.store())
    }
}

impl S3Backend {
    /// Makes a client; nothing is sent before the first call. `clock` dates the signatures of grants.
    pub fn connect(config: S3Config, clock: Arc<dyn Clock>) -> Result<Self> {
        if config.bucket.is_empty() {
            return Err(Error::invalid("no S3 bucket: name one in the configuration"));
        }
        let region = region(&config)?;
        let keys = config.credentials.map_or_else(Credentials::from_env, Ok)?;
        let place = config.endpoint.clone().unwrap_or_else(|| format!("AWS {region}"));
        let mut settings = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region))
            .credentials_provider(aws_sdk_s3::config::Credentials::new(
                keys.access_key_id,
                keys.secret_access_key,
                keys.session_token,
                None,
                "sitefs",
            ))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts());
        if let Some(endpoint) = config.endpoint {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                return Err(Error::invalid(format!(
                    "the S3 endpoint {endpoint} is no URL: it begins with http:// or https://"
                )));
            }
            settings = settings.endpoint_url(endpoint).force_path_style(true);
        }
        Ok(Self {
            client: Client::from_conf(settings.build()),
            bucket: config.bucket,
            place,
            clock,
            enforces_digest: AtomicBool::new(false),
        })
    }

    fn store(&self) -> String {
        format!("bucket {} at {}", self.bucket, self.place)
    }

    async fn write(&self, key: &str, digest: &Digest, bytes: Bytes) -> Result<(), Meaning> {
        let len = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_length(len)
            .content_type(CONTENT_TYPE)
            .if_none_match("*")
            .checksum_sha512(base64(digest))
            .body(ByteStream::from(bytes));
        request.send().await.map(drop).map_err(|error| self.meaning("PUT", key, error))
    }

    async fn read(&self, key: &str) -> Result<Bytes> {
        let answer = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        let answer = answer.map_err(|error| self.meaning("GET", key, error).error)?;
        let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
        let Some(len) = len.filter(|len| *len <= OBJECT_MAX) else {
            return Err(Error::corrupt(format!(
                "GET {key}: the object is too large for a blob: {len:?} bytes"
            )));
        };
        let broken = |error| Error::unavailable(format!("GET {key}: the answer broke off")).because(error);
        let body = tokio::time::timeout(ATTEMPT_TIMEOUT, answer.body.collect()).await;
        let bytes = body
            .map_err(|_| Error::unavailable(format!("GET {key}: no answer in time")))?
            .map_err(broken)?
            .into_bytes();
        if bytes.len() as u64 != len {
            return Err(Error::unavailable(format!("GET {key}: {} bytes of {len} came", bytes.len())));
        }
        Ok(bytes)
    }

    async fn size(&self, key: &str) -> Result<Option<u64>> {
        let answer = self.client.head_object().bucket(&self.bucket).key(key).send().await;
        match answer.map_err(|error| self.meaning("HEAD", key, error)) {
            Ok(answer) => Ok(answer.content_length().and_then(|len| u64::try_from(len).ok())),
            Err(meaning) if meaning.error.kind() == Kind::NotFound => Ok(None),
            Err(meaning) => Err(meaning.error),
        }
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let answer = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
        match answer.map_err(|error| self.meaning("DELETE", key, error)) {
            Err(meaning) if meaning.error.kind() != Kind::NotFound => Err(meaning.error),
            _ => Ok(()),
        }
    }

    async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        let keys = i32::try_from(limit.min(LIST_PAGE_MAX)).unwrap_or(1000);
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).max_keys(keys);
        let answer = request.set_start_after(after.map(str::to_owned)).send().await;
        let answer = answer.map_err(|error| self.meaning("LIST", prefix, error).error)?;
        Ok(answer.contents.unwrap_or_default().into_iter().filter_map(listed).collect())
    }

    fn signing(&self, valid: Duration) -> Result<(PresigningConfig, Time)> {
        let now = self.clock.now();
        let config = PresigningConfig::builder().start_time(now.into()).expires_in(valid).build();
        let config = config.map_err(|error| {
            Error::invalid(format!("signing a request for {} s", valid.as_secs())).because(error)
        })?;
        Ok((config, now.plus(valid)))
    }

    async fn sign_put(&self, key: &ObjectKey, len: u64, valid: Duration) -> Result<SignedRequest> {
        let (config, expires) = self.signing(valid)?;
        let len = i64::try_from(len).map_err(|error| Error::invalid("signing a PUT").because(error))?;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.to_string())
            .content_length(len)
            .content_type(CONTENT_TYPE)
            .if_none_match("*")
            .checksum_sha512(base64(&key.digest));
        let signed = request.presigned(config).await;
        Ok(request_of(&signed.map_err(|error| Error::internal("signing a PUT").because(error))?, expires))
    }

    async fn sign_get(&self, key: &ObjectKey, valid: Duration) -> Result<SignedRequest> {
        let (config, expires) = self.signing(valid)?;
        let request = self.client.get_object().bucket(&self.bucket).key(key.to_string());
        let signed = request.presigned(config).await;
        Ok(request_of(&signed.map_err(|error| Error::internal("signing a GET").because(error))?, expires))
    }
}

fn region(config: &S3Config) -> Result<String> {
    match (&config.region, &config.endpoint) {
        (Some(region), _) => Ok(region.clone()),
        (None, Some(_)) => Ok("us-east-1".into()),
        (None, None) => Err(Error::invalid(
            "no S3 region: give the region of the bucket, or the endpoint of another store",
        )),
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build()
}

fn base64(digest: &Digest) -> String {
    BASE64_STANDARD.encode(digest.as_bytes())
}

fn request_of(signed: &PresignedRequest, expires: Time) -> SignedRequest {
    let headers = signed.headers().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    SignedRequest { method: signed.method().into(), url: signed.uri().into(), headers, expires }
}

fn listed(object: aws_sdk_s3::types::Object) -> Option<Listed> {
    let modified = object.last_modified().map_or(Time::EPOCH, |at| Time::new(at.secs(), at.subsec_nanos()));
    let len = u64::try_from(object.size()?).ok()?;
    Some(Listed { key: object.key?, len, modified })
}

impl Backend for S3Backend {
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.write(&key.to_string(), &key.digest, bytes).await {
                Err(meaning) if !meaning.is_present() => Err(meaning.error),
                _ => Ok(()),
            }
        })
    }

    fn get<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move { self.read(&key.to_string()).await })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move { self.size(&key.to_string()).await })
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.remove(&key.to_string()).await })
    }

    fn presign_put<'a>(
        &'a self,
        key: &'a ObjectKey,
        len: u64,
        valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>> {
        Box::pin(async move { self.sign_put(key, len, valid).await.map(Some) })
    }

    fn presign_get<'a>(
        &'a self,
        key: &'a ObjectKey,
        valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>> {
        Box::pin(async move { self.sign_get(key, valid).await.map(Some) })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(self.page(prefix, after, limit))
    }

    fn claim<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.own(owner))
    }

    fn check(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let enforces = self.probe().await?;
            self.enforces_digest.store(enforces, Ordering::Relaxed);
            Ok(())
        })
    }

    fn enforces_digest(&self) -> bool {
        self.enforces_digest.load(Ordering::Relaxed)
    }
}
