use super::*;
use sitefs_blobstore::{CacheOptions, DiskCache, VerifiedBytes};
use std::collections::BTreeSet;

const ONE: InodeId = InodeId::new(1);
const TWO: InodeId = InodeId::new(2);

/// A kernel that takes every file, and in which those of `mapped` are mapped.
#[derive(Default)]
struct Kernel {
    lent: Mutex<BTreeSet<u32>>,
    mapped: Mutex<BTreeSet<u64>>,
}

impl Lender for Kernel {
    fn lend(&self, _blob: &CachedBlob) -> io::Result<u32> {
        let mut lent = self.lent.lock().unwrap();
        let id = (1..).find(|id| !lent.contains(id)).unwrap();
        lent.insert(id);
        Ok(id)
    }

    fn end(&self, id: u32) {
        assert!(self.lent.lock().unwrap().remove(&id), "{id} is given back twice");
    }

    fn is_used(&self, blob: &CachedBlob) -> bool {
        self.mapped.lock().unwrap().contains(&blob.len)
    }
}

struct Setup {
    _dir: tempfile::TempDir,
    cache: DiskCache,
    kernel: Arc<Kernel>,
    loans: Loans,
}

impl Setup {
    fn new(files: u64, bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), CacheOptions { max_bytes: 1 << 30, min_free: 0 }).unwrap();
        let (kernel, loans) = (Arc::new(Kernel::default()), Loans::new(2 * files, bytes));
        loans.begin(Arc::clone(&kernel) as Arc<dyn Lender>);
        Self { _dir: dir, cache, kernel, loans }
    }

    fn blob(&self, len: usize) -> (Digest, CachedBlob) {
        let bytes = VerifiedBytes::of(vec![7; len].into());
        self.cache.insert(&bytes).unwrap();
        (bytes.digest(), self.cache.open_blob(&bytes.digest()).unwrap().unwrap())
    }

    fn admit(&self, owner: InodeId, len: usize) -> Option<Arc<Loan>> {
        let (digest, blob) = self.blob(len);
        self.loans.admit(digest, owner, blob)
    }

    fn lent(&self) -> usize {
        self.kernel.lent.lock().unwrap().len()
    }
}

fn is_lent(asked: &Asked) -> bool {
    matches!(asked, Asked::Lent(_))
}

#[test]
fn opens_of_an_inode_share_one_id_and_another_inode_gets_it_when_nobody_uses_it() {
    let setup = Setup::new(10, 1 << 20);
    let digest = setup.blob(1000).0;
    assert!(matches!(setup.loans.borrow(&digest, 1000, ONE), Asked::Unknown));
    let loan = setup.admit(ONE, 1000).unwrap();
    assert!(is_lent(&setup.loans.borrow(&digest, 1000, ONE)) && setup.loans.borrow_again(&loan, ONE));
    assert_eq!((setup.lent(), setup.loans.stats().files, setup.loans.stats().bytes), (1, 1, 1000));
    assert!(matches!(setup.loans.borrow(&digest, 1000, TWO), Asked::Refused));
    assert!(matches!(setup.loans.borrow(&digest, 999, ONE), Asked::Refused), "only a part of it");
    assert!(setup.admit(TWO, 1000).is_none());
    (0..3).for_each(|_| setup.loans.give_back(&loan));
    // Its descriptors are closed, and a mapping is left.
    setup.kernel.mapped.lock().unwrap().insert(1000);
    assert!(setup.loans.is_used(&loan, ONE));
    assert!(matches!(setup.loans.borrow(&digest, 1000, TWO), Asked::Refused));
    setup.kernel.mapped.lock().unwrap().clear();
    assert!(!setup.loans.is_used(&loan, ONE));
    assert!(is_lent(&setup.loans.borrow(&digest, 1000, TWO)));
    assert!(!setup.loans.borrow_again(&loan, ONE) && !setup.loans.is_used(&loan, ONE), "it is another's now");
}

#[test]
fn number_and_bytes_are_bounded_and_what_is_used_stays() {
    let setup = Setup::new(3, 10_000);
    let held = setup.admit(ONE, 5000).unwrap();
    for len in [1001, 1002, 1003, 1004] {
        let loan = setup.admit(ONE, len).unwrap();
        setup.loans.give_back(&loan);
    }
    assert_eq!((setup.lent(), setup.loans.stats().files), (3, 3));
    assert!(setup.admit(ONE, 6000).is_none(), "there is no room for it beside what is used");
    assert_eq!(setup.loans.stats().files, 1);
    assert!(setup.loans.borrow_again(&held, ONE));
    // Mapped files are not taken back either.
    let mapped = setup.admit(ONE, 5000 - 1).unwrap();
    setup.kernel.mapped.lock().unwrap().insert(5000 - 1);
    setup.loans.give_back(&mapped);
    assert!(setup.admit(ONE, 2000).is_none());
    setup.kernel.mapped.lock().unwrap().clear();
    assert!(setup.admit(ONE, 2000).is_some());
    assert_eq!(setup.loans.stats().bytes, 7000);
}

#[test]
fn a_file_that_somebody_takes_away_is_not_lent_as_a_blob_and_all_that_is_unused_can_be_taken_back() {
    let setup = Setup::new(10, 1 << 20);
    let (digest, blob) = setup.blob(1000);
    let late = blob.clone();
    let loan = setup.loans.admit(digest, ONE, blob).unwrap();
    drop(setup.cache.take(&digest, loan.blob()).unwrap());
    assert!(setup.loans.no_blob(&loan, ONE));
    assert!(setup.loans.admit(digest, TWO, late).is_none(), "found in the cache before it was taken away");
    setup.loans.end_unused();
    assert_eq!(setup.lent(), 1, "it is open");
    setup.loans.give_back(&loan);
    setup.loans.end_unused();
    drop(loan);
    assert_eq!((setup.lent(), setup.loans.stats().files), (0, 0));
}

#[test]
fn a_file_that_is_no_blob_any_more_is_found_by_nobody_and_goes_when_it_is_unused() {
    let setup = Setup::new(10, 1 << 20);
    let loan = setup.admit(ONE, 1000).unwrap();
    assert!(!setup.loans.no_blob(&loan, TWO), "it is not shown as content of that one");
    assert!(setup.loans.no_blob(&loan, ONE));
    let digest = *loan.digest();
    assert!(matches!(setup.loans.borrow(&digest, 1000, ONE), Asked::Unknown));
    assert!(setup.loans.borrow_again(&loan, ONE), "the inode that shows it goes on");
    let second = setup.admit(TWO, 1000).unwrap();
    assert_ne!(second.id(), loan.id());
    setup.loans.look_after();
    assert_eq!(setup.lent(), 2);
    (0..2).for_each(|_| setup.loans.give_back(&loan));
    setup.loans.look_after();
    assert_eq!(setup.loans.stats().files, 1);
    drop(loan);
    assert_eq!(setup.lent(), 1, "the id is given back with the last who knows it");
}
