//! A bucket in memory.

use super::http::{Answer, Request};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Objects by `/bucket/key`.
#[derive(Default)]
pub struct Objects(Mutex<BTreeMap<String, Vec<u8>>>);

impl Objects {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, without the bucket in the keys.
    pub fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let bare = |path: &String| path.splitn(3, '/').nth(2).unwrap_or_default().to_owned();
        self.lock().iter().map(|(path, bytes)| (bare(path), bytes.clone())).collect()
    }

    /// Does what it is asked for.
    pub fn answer(&self, request: &Request) -> Answer {
        let path = request.path();
        let mut objects = self.lock();
        match request.method.as_str() {
            "PUT" if request.header("if-none-match") == Some("*") && objects.contains_key(&path) => {
                Answer::error(412, "PreconditionFailed")
            }
            "PUT" => {
                objects.insert(path, request.body.clone());
                Answer { headers: vec![("ETag".to_owned(), "\"1\"".to_owned())], ..Answer::empty(200) }
            }
            "GET" if request.is_listing() => listing(&objects, request, &path),
            "GET" => match objects.get(&path) {
                Some(bytes) => Answer::of(200, bytes.clone()),
                None => Answer::error(404, "NoSuchKey"),
            },
            "HEAD" => match objects.get(&path) {
                Some(bytes) => Answer { len: Some(bytes.len()), ..Answer::empty(200) },
                None => Answer::empty(404),
            },
            "DELETE" => {
                objects.remove(&path);
                Answer::empty(204)
            }
            _ => Answer::error(501, "NotImplemented"),
        }
    }
}

fn listing(objects: &BTreeMap<String, Vec<u8>>, request: &Request, path: &str) -> Answer {
    let bucket = format!("/{}/", path.trim_matches('/'));
    let query = |name| request.query(name).unwrap_or_default();
    let (prefix, after) = (query("prefix"), query("continuation-token").max(query("start-after")));
    let limit: usize = query("max-keys").parse().unwrap_or(1000);
    let keys = objects.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(&bucket)?, bytes.len())));
    let mut fitting =
        keys.filter(|(key, _)| key.starts_with(&prefix) && (after.is_empty() || **key > *after));
    let mut xml = String::new();
    let mut last = "";
    for (key, len) in fitting.by_ref().take(limit) {
        xml.push_str(&format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{len}</Size></Contents>"
        ));
        last = key;
    }
    let more = fitting.next().is_some();
    if more {
        xml.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
    }
    Answer::listing(&xml, more)
}
