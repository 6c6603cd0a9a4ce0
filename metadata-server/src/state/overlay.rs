//! The writes of one command, held back until it is sure that it is not refused.

use super::{Family, Read, view::Row};
use sitefs_base::Result;
use std::{collections::BTreeMap, ops::Bound};

type Writes = BTreeMap<(Family, Vec<u8>), Option<Vec<u8>>>;

/// Rows as they will be after the command: its own writes over what is stored.
pub(super) struct Overlay<'a> {
    stored: &'a dyn Read,
    writes: Writes,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(stored: &'a dyn Read) -> Self {
        Self { stored, writes: Writes::new() }
    }

    /// The rows as they were before the command.
    pub(super) fn stored(&self) -> &'a dyn Read {
        self.stored
    }

    pub(super) fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        self.writes.insert((family, key.to_vec()), Some(value));
    }

    pub(super) fn delete(&mut self, family: Family, key: &[u8]) {
        self.writes.insert((family, key.to_vec()), None);
    }

    /// Forgets all writes: the command is refused.
    pub(super) fn discard(&mut self) {
        self.writes.clear();
    }

    pub(super) fn into_writes(self) -> Writes {
        self.writes
    }

    fn own(&self, family: Family, prefix: &[u8], from: &[u8]) -> Vec<(&Vec<u8>, Option<&Vec<u8>>)> {
        let start = (family, from.max(prefix).to_vec());
        self.writes
            .range((Bound::Included(start), Bound::Unbounded))
            .take_while(|((of, key), _)| *of == family && key.starts_with(prefix))
            .map(|((_, key), value)| (key, value.as_ref()))
            .collect()
    }
}

impl Read for Overlay<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.writes.get(&(family, key.to_vec())) {
            Some(own) => Ok(own.clone()),
            None => self.stored.get(family, key),
        }
    }

    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        let own = self.own(family, prefix, from);
        // Each own write hides at most one stored row.
        let stored = self.stored.scan(family, prefix, from, limit.saturating_add(own.len()))?;
        if own.is_empty() {
            return Ok(stored);
        }
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = stored.into_iter().collect();
        for (key, value) in own {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}
