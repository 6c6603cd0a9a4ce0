//! The writes of one command, held back until it is sure that it is not refused.

use super::{Family, Read, view::Row};
use sitefs_base::Result;
use std::{cell::RefCell, collections::BTreeMap, ops::Bound};

/// The rows of one family; `None` is one that is not there.
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
type Families = [Rows; Family::ALL.len()];

/// Rows as they will be after the command: its own writes over what is stored.
pub(super) struct Overlay<'a> {
    stored: &'a dyn Read,
    writes: Families,
    /// Stored rows that the command has read: it looks at the same few again and again.
    known: RefCell<Families>,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(stored: &'a dyn Read) -> Self {
        Self { stored, writes: Families::default(), known: RefCell::default() }
    }

    pub(super) fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        self.writes[family as usize].insert(key.to_vec(), Some(value));
    }

    pub(super) fn delete(&mut self, family: Family, key: &[u8]) {
        self.writes[family as usize].insert(key.to_vec(), None);
    }

    /// Forgets all writes: the command is refused.
    pub(super) fn discard(&mut self) {
        self.writes = Families::default();
    }

    /// All writes, by family.
    pub(super) fn into_writes(self) -> impl Iterator<Item = (Family, Rows)> + use<> {
        Family::ALL.into_iter().zip(self.writes)
    }

    fn own(&self, family: Family, prefix: &[u8], from: &[u8]) -> Vec<(&Vec<u8>, Option<&Vec<u8>>)> {
        let start = Bound::Included(from.max(prefix));
        self.writes[family as usize]
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key, value.as_ref()))
            .collect()
    }
}

impl Read for Overlay<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(own) = self.writes[family as usize].get(key) {
            return Ok(own.clone());
        }
        if let Some(known) = self.known.borrow()[family as usize].get(key) {
            return Ok(known.clone());
        }
        let value = self.stored.get(family, key)?;
        self.known.borrow_mut()[family as usize].insert(key.to_vec(), value.clone());
        Ok(value)
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
