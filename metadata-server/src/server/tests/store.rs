//! A directory as object store that fails, signs and spoils as a test tells it.

use bytes::Bytes;
use sitefs_base::{Digest, Error, Result, Time};
use sitefs_blobstore::{Backend, BoxFuture, DirBackend, Listed, ObjectKey, SignedRequest};
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

#[derive(Debug)]
pub struct TestStore {
    dir: DirBackend,
    pub down: AtomicBool,
    pub spoils: AtomicBool,
    pub signs: AtomicBool,
    pub heads: AtomicUsize,
    /// Blobs that cannot be put.
    pub refused: Mutex<Vec<Digest>>,
    /// What is written about whose it is.
    pub owner: Mutex<Option<String>>,
}

impl TestStore {
    pub fn open(data: &Path) -> Arc<Self> {
        Arc::new(Self {
            dir: DirBackend::open(data.join("blobs")).unwrap(),
            down: AtomicBool::new(false),
            spoils: AtomicBool::new(false),
            signs: AtomicBool::new(false),
            heads: AtomicUsize::new(0),
            refused: Mutex::default(),
            owner: Mutex::default(),
        })
    }

    pub fn set(flag: &AtomicBool, value: bool) {
        flag.store(value, Ordering::SeqCst);
    }

    fn up(&self) -> Result<()> {
        if self.down.load(Ordering::SeqCst) { Err(Error::unavailable("the store is down")) } else { Ok(()) }
    }

    fn sign(&self, method: &str, key: &ObjectKey) -> Option<SignedRequest> {
        self.signs.load(Ordering::SeqCst).then(|| SignedRequest {
            method: method.to_owned(),
            url: format!("https://store/{key}"),
            headers: vec![("x-signed".to_owned(), method.to_owned())],
            expires: Time::EPOCH,
        })
    }
}

impl Backend for TestStore {
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.up()?;
            if self.refused.lock().unwrap().contains(&key.digest) {
                return Err(Error::invalid("the store does not take this blob"));
            }
            self.dir.put(key, bytes).await
        })
    }

    fn get<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            self.up()?;
            let bytes = self.dir.get(key).await?;
            let spoils = self.spoils.load(Ordering::SeqCst);
            Ok(if spoils { bytes.iter().map(|byte| !byte).collect() } else { bytes })
        })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<u64>>> {
        self.heads.fetch_add(1, Ordering::SeqCst);
        self.dir.head(key)
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.up()?;
            self.dir.delete(key).await
        })
    }

    fn claim<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<String>> {
        let found = self.owner.lock().unwrap().get_or_insert_with(|| owner.to_owned()).clone();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn presign_put<'a>(
        &'a self,
        key: &'a ObjectKey,
        _len: u64,
        _valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>> {
        Box::pin(async move { Ok(self.sign("PUT", key)) })
    }

    fn presign_get<'a>(
        &'a self,
        key: &'a ObjectKey,
        _valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>> {
        Box::pin(async move { Ok(self.sign("GET", key)) })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.dir.list(prefix, after, limit)
    }

    fn check(&self) -> BoxFuture<'_, Result<()>> {
        self.dir.check()
    }

    fn enforces_digest(&self) -> bool {
        false
    }
}
