//! The state database of one group.

use super::{
    churn::Churn,
    history::Needed,
    keyspace,
    meta::{LogPosition, StoreMeta},
    poison::Poison,
    reader::{Reader, handle},
    recent::Recent,
    rocks::{self, failed},
    txn::{META_KEY, Txn},
    upkeep::needed_now,
};
use crate::state::{Family, Retention};
use rocksdb::{Cache, ColumnFamily, DB, Options, checkpoint::Checkpoint};
use sitefs_base::{Error, Result};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

/// The kind and format version of the database.
const MARK: &str = "sitefs-state 3";
/// How long the installation of a snapshot waits for readers to end.
const READERS_END: Duration = Duration::from_secs(10);

/// Sizes, and what a failure is reported to.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The block cache, in bytes.
    pub cache_bytes: usize,
    /// All write buffers together, in bytes; when they are full, all families are flushed.
    pub write_buffer_bytes: usize,
    /// Tripped when the database fails.
    pub poison: Poison,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, write_buffer_bytes: 128 << 20, poison: Poison::default() }
    }
}

/// The rows of one group. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: StoreOptions,
    cache: Cache,
    pub(super) needed: Needed,
    pub(super) churn: Mutex<Churn>,
    // Empty only inside `replace`, and after a `replace` that failed.
    db: RwLock<Option<Arc<DB>>>,
    /// Held by the one transaction that runs.
    writer: Mutex<()>,
    recent: Arc<Recent>,
    meta: Mutex<StoreMeta>,
    pub(super) flushed: Mutex<Option<LogPosition>>,
}

impl Store {
    /// Opens the database in `dir`, or makes one in a new or empty directory.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self> {
        // Zero: entries are of all sizes, blocks and filters.
        let cache = Cache::new_hyper_clock_cache(options.cache_bytes, 0);
        let needed = Needed::default();
        let (db, meta) = open_db(dir, &options, &cache, &needed)?;
        let shared = Shared {
            dir: dir.to_owned(),
            options,
            cache,
            needed,
            churn: Mutex::default(),
            flushed: Mutex::new(meta.applied),
            meta: Mutex::new(meta),
            db: RwLock::new(Some(db)),
            writer: Mutex::default(),
            recent: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The rows as they are now.
    pub fn reader(&self) -> Reader {
        let db = self.shared.db.read().unwrap_or_else(PoisonError::into_inner).clone();
        Reader::new(db, self.shared.options.poison.clone()).remembering(&self.shared.recent)
    }

    /// Runs `change` and stores what it wrote as one batch; nothing is stored if it fails.
    /// One transaction runs at a time.
    pub fn transact<T>(&self, change: impl FnOnce(&mut Txn<'_>) -> Result<T>) -> Result<T> {
        let _one = lock(&self.shared.writer);
        let db = self.db()?;
        let mut txn = Txn::new(&db, &self.shared.options.poison, &self.shared.recent, self.meta());
        let value = change(&mut txn)?;
        let meta = txn.commit(&mut lock(&self.shared.churn))?;
        *lock(&self.shared.meta) = meta;
        self.flush_if_churned(&db)?;
        Ok(value)
    }

    /// The log position of the rows, and the membership.
    pub fn meta(&self) -> StoreMeta {
        lock(&self.shared.meta).clone()
    }

    /// The last log entry that the rows contain.
    pub fn applied(&self) -> Option<LogPosition> {
        lock(&self.shared.meta).applied
    }

    /// The last log entry that a crash cannot take away any more: the log is needed only after it.
    pub fn flushed(&self) -> Option<LogPosition> {
        *lock(&self.shared.flushed)
    }

    /// Makes a copy in `dir`, which must not exist, of hard links and a few small files. The copy
    /// may contain later transactions than the call saw; [`Self::read_checkpoint`] tells.
    pub fn checkpoint(&self, dir: &Path) -> Result<()> {
        let db = self.db()?;
        let doing = || format!("making a checkpoint in {}", dir.display());
        Checkpoint::new(&*db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(|error| self.shared.options.poison.set(failed(doing(), error)))
    }

    /// The position and membership of a checkpoint.
    pub fn read_checkpoint(dir: &Path) -> Result<StoreMeta> {
        let db = DB::open_cf_for_read_only(&Options::default(), dir, ["default"], true)
            .map_err(|error| failed(format!("opening the checkpoint {}", dir.display()), error))?;
        match db.get(rocks::FORMAT_KEY) {
            Ok(Some(mark)) if mark == MARK.as_bytes() => read_meta(&db),
            _ => Err(Error::invalid(format!("{} is not a {MARK} checkpoint", dir.display()))),
        }
    }

    /// Closes the database, lets `swap` replace its directory, and opens it again. Waits for readers
    /// to end first; if that, the swap or the opening fails, the store stays closed and the node
    /// must stop.
    pub fn replace(&self, swap: impl FnOnce() -> Result<()>) -> Result<()> {
        let _one = lock(&self.shared.writer);
        let mut slot = self.shared.db.write().unwrap_or_else(PoisonError::into_inner);
        let old = slot.take().ok_or_else(|| Error::fenced("the store is closed"))?;
        let result = close(old).and_then(|()| swap()).and_then(|()| {
            open_db(&self.shared.dir, &self.shared.options, &self.shared.cache, &self.shared.needed)
        });
        let (db, meta) = result.map_err(|error| {
            self.shared.options.poison.set(error.while_doing("replacing the state database"))
        })?;
        *lock(&self.shared.flushed) = meta.applied;
        *lock(&self.shared.meta) = meta;
        self.shared.recent.clear();
        *slot = Some(db);
        Ok(())
    }

    pub(super) fn db(&self) -> Result<Arc<DB>> {
        self.shared.options.poison.check()?;
        let slot = self.shared.db.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone().ok_or_else(|| Error::fenced("the store is closed"))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.shared.dir)
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the database and reads what is on disk: its position, and what history is needed.
fn open_db(
    dir: &Path,
    options: &StoreOptions,
    cache: &Cache,
    needed: &Needed,
) -> Result<(Arc<DB>, StoreMeta)> {
    let buffers = options.write_buffer_bytes;
    // Compactions that begin while the database is being opened go by no other database's rows.
    needed.opened(0, Retention::default());
    let families = keyspace::families(cache, buffers, needed);
    let db = Arc::new(rocks::open(dir, MARK, &keyspace::db_options(buffers), families)?);
    let meta = read_meta(&db)?;
    let (sequence, retention) = needed_now(&db, &options.poison)?;
    needed.opened(sequence, retention);
    Ok((db, meta))
}

/// Refuses a database of another kind or format.
pub(super) fn check_mark(db: &DB, dir: &Path) -> Result<()> {
    rocks::check_mark(db, dir, MARK)
}

pub(super) fn read_meta(db: &DB) -> Result<StoreMeta> {
    let row = db.get(META_KEY).map_err(|error| failed("reading the store's position", error))?;
    row.map_or_else(|| Ok(StoreMeta::default()), |bytes| StoreMeta::decode(&bytes))
}

pub(super) fn handles(db: &DB) -> Result<Vec<&ColumnFamily>> {
    let default =
        db.cf_handle("default").ok_or_else(|| Error::internal("the database has no default family"))?;
    let families = Family::ALL.into_iter().map(|family| handle(db, family));
    std::iter::once(Ok(default)).chain(families).collect()
}

/// Ends the database once nobody reads from it: RocksDB names its files by path, so the old one
/// must be gone before another directory takes its place.
fn close(mut db: Arc<DB>) -> Result<()> {
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(5);
    loop {
        match Arc::try_unwrap(db) {
            Ok(db) => {
                db.cancel_all_background_work(true);
                return Ok(());
            }
            Err(shared) if waited < READERS_END => {
                db = shared;
                std::thread::sleep(step);
                waited += step;
            }
            Err(_) => return Err(Error::unavailable("readers did not let go of the state database")),
        }
    }
}
