use super::*;
use proptest::prelude::*;

#[test]
fn a_write_in_the_middle_of_a_large_file_misses_only_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let mut working = Working::of_existing(dir.path(), 5 * CHUNK_SIZE);
    assert_eq!(working.missing_for_write(CHUNK_SIZE + 5, CHUNK_SIZE), [1, 2]);
    assert_eq!(working.missing_for_write(CHUNK_SIZE, CHUNK_SIZE), [0u32; 0]);
    working.fill(1, &vec![7; usize_of(CHUNK_SIZE)]).unwrap();
    working.fill(2, &vec![8; usize_of(CHUNK_SIZE)]).unwrap();
    working.write(CHUNK_SIZE + 5, b"x").unwrap();
    let captured = working.capture().unwrap();
    assert_eq!(captured.chunks, [1]);
    assert_eq!(captured.source.read(1, captured.size).unwrap()[4..7], [7, b'x', 7]);
}

#[test]
fn an_append_misses_the_chunk_that_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let working = Working::of_existing(dir.path(), CHUNK_SIZE + 100);
    assert_eq!(working.missing_for_write(CHUNK_SIZE + 100, 5), [1]);
    assert_eq!(working.missing_for_write(2 * CHUNK_SIZE, 5), [0u32; 0]);
}

#[test]
fn what_was_cut_off_is_sent_as_a_hole_when_the_file_grows_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut working = Working::of_existing(dir.path(), 4 * CHUNK_SIZE);
    working.resize(CHUNK_SIZE).unwrap();
    working.resize(3 * CHUNK_SIZE).unwrap();
    assert!(working.missing(CHUNK_SIZE, CHUNK_SIZE).is_empty());
    working.write(2 * CHUNK_SIZE, b"new").unwrap();
    let captured = working.capture().unwrap();
    assert_eq!(captured.chunks, [1, 2]);
    assert_eq!((captured.is_hole(1), captured.is_hole(2)), (true, false), "only one has to be read");
}

#[test]
fn a_failed_commit_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut working = Working::empty(dir.path());
    working.write(0, &vec![1; 200_000]).unwrap();
    let captured = working.capture().unwrap();
    assert!(!working.is_changed());
    working.restore(&captured);
    assert!(working.is_changed());
    assert_eq!(working.capture().unwrap().chunks, [0]);
}

#[test]
fn growth_is_what_the_cell_does_not_have_yet() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = Working::empty(dir.path());
    assert_eq!((fresh.growth(0), fresh.growth_with(0, 0, 10)), (0, 10));
    assert_eq!(fresh.growth_with(0, 100, 10), 110, "small content is sent whole");
    let dense = Working::of_existing(dir.path(), 10 << 20);
    assert_eq!(dense.growth_with(10 << 20, 5 << 20, 100), 0);
    assert_eq!(dense.growth_with(10 << 20, 10 << 20, 1 << 20), 1 << 20);
    assert_eq!(dense.growth_at(10 << 20, 1 << 40), 0, "a hole");
    let holes = Working::of_existing(dir.path(), 100 << 20);
    assert_eq!(holes.growth_with(0, 50 << 20, 1), CHUNK_SIZE, "a chunk is sent whole");
    let small = Working::of_existing(dir.path(), 60_000);
    assert_eq!(small.growth_at(60_000, 10 << 20), CHUNK_SIZE, "its first chunk is sent again");
    assert_eq!(small.growth_at(60_000, 64 << 10), (64 << 10) - 60_000);
    assert_eq!(small.growth_at(60_000, 10), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8, usize),
    Resize(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..100_000, any::<u8>(), 1usize..40_000).prop_map(|(at, byte, len)| Step::Write(at, byte, len)),
        (0u64..120_000).prop_map(Step::Resize),
    ]
}

proptest! {
    #[test]
    fn growth_before_a_change_is_growth_after_it_and_covers_what_is_sent(
        cell_len in prop_oneof![0..200_000u64, 0..6 * CHUNK_SIZE], steps in prop::collection::vec(step(), 1..20),
        far in 0..3 * CHUNK_SIZE,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut working = Working::of_existing(dir.path(), cell_len);
        let allocated = cell_len / 2;
        for (number, step) in steps.into_iter().enumerate() {
            let far = if number % 3 == 0 { far } else { 0 };
            let planned = match step {
                Step::Write(at, byte, len) => {
                    let planned = working.growth_with(allocated, at + far, len as u64);
                    for chunk in working.missing_for_write(at + far, len as u64) {
                        working.fill(chunk, &vec![1; usize_of(CHUNK_SIZE)]).unwrap();
                    }
                    working.write(at + far, &vec![byte; len]).unwrap();
                    planned
                }
                Step::Resize(size) => {
                    let grows = size + far > working.size();
                    let planned = working.growth_at(allocated, size + far);
                    for chunk in working.missing_for_resize(size + far) {
                        working.fill(chunk, &vec![1; usize_of(CHUNK_SIZE)]).unwrap();
                    }
                    working.resize(size + far).unwrap();
                    if grows { planned } else { working.growth(allocated) }
                }
            };
            prop_assert_eq!(working.growth(allocated), planned);
        }
        for chunk in working.missing_for_capture() {
            working.fill(chunk, &vec![1; usize_of(CHUNK_SIZE)]).unwrap();
        }
        let growth = working.growth(allocated);
        let captured = working.capture().unwrap();
        let sent: u64 = match &captured.whole {
            Some(whole) => whole.len() as u64,
            None => captured
                .chunks
                .iter()
                .map(|chunk| captured.source.read(*chunk, captured.size).unwrap())
                .filter(|bytes| bytes.iter().any(|byte| *byte != 0))
                .map(|bytes| bytes.len() as u64)
                .sum(),
        };
        prop_assert!(growth >= sent.min(captured.size.saturating_sub(allocated)), "{} {}", growth, sent);
    }

    #[test]
    fn reads_what_a_plain_buffer_reads(steps in prop::collection::vec(step(), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let mut working = Working::empty(dir.path());
        let mut model: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Write(at, byte, len) => {
                    working.write(at, &vec![byte; len]).unwrap();
                    let at = usize::try_from(at).unwrap();
                    if model.len() < at + len { model.resize(at + len, 0); }
                    model[at..at + len].fill(byte);
                }
                Step::Resize(size) => {
                    working.resize(size).unwrap();
                    model.resize(usize::try_from(size).unwrap(), 0);
                }
            }
            prop_assert_eq!(working.size(), model.len() as u64);
            prop_assert_eq!(&working.read(0, model.len()).unwrap(), &model);
        }
    }
}
