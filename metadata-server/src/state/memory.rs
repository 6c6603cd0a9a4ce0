//! Rows in memory, for tests of `state` and of everything above it.

use super::{Family, Read, View, view::Row};
use sitefs_base::Result;
use std::collections::BTreeMap;

/// A [`View`] over an ordered map.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct MemoryView {
    rows: BTreeMap<(Family, Vec<u8>), Vec<u8>>,
}

impl MemoryView {
    /// A view without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// All rows of a family, ascending.
    pub fn rows(&self, family: Family) -> Vec<Row> {
        let of_family = self.rows.range((family, Vec::new())..).take_while(|((of, _), _)| *of == family);
        of_family.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }
}

impl Read for MemoryView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.rows.get(&(family, key.to_vec())).cloned())
    }

    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        let start = (family, from.max(prefix).to_vec());
        let rows = self.rows.range(start..);
        let found = rows.take_while(|((of, key), _)| *of == family && key.starts_with(prefix)).take(limit);
        Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl View for MemoryView {
    fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        self.rows.insert((family, key.to_vec()), value);
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.rows.remove(&(family, key.to_vec()));
    }
}
