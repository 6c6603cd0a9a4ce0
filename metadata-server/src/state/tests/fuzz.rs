//! Damaged rows: an error that names the row, or an answer, but never a panic.

use super::{
    super::{rows::*, *},
    reference::random_cell,
};
use proptest::{prelude::*, sample::Index};
use serde::{Deserialize, Serialize};
use sitefs_base::{Error, InodeId, Kind, Name, OpId, Result, Seq, SessionId, VolumeId, op::*};
use std::{collections::BTreeSet, sync::LazyLock};

/// Some groups after random histories, and the commands that made them.
static CELLS: LazyLock<Vec<(MemoryView, Vec<Command>)>> =
    LazyLock::new(|| (0..16).map(|seed| random_cell(seed, 80)).collect());

/// What happens to bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    /// A number as large as it can be, where perhaps a length or a number stands.
    Huge(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        3 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        2 => at().prop_map(Damage::Huge),
    ]
}

/// The largest number as postcard writes it.
const HUGE: [u8; 10] = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];

fn hurt(mut bytes: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for damage in damage {
        let len = bytes.len();
        match damage {
            _ if len == 0 => {}
            Damage::Set(at, byte) => bytes[at.index(len)] = *byte,
            Damage::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Damage::Cut(at) => bytes.truncate(at.index(len)),
            Damage::Insert(at, more) => drop(bytes.splice(at.index(len)..at.index(len), more.clone())),
            Damage::Huge(at) => drop(bytes.splice(at.index(len)..=at.index(len), HUGE)),
        }
    }
    bytes
}

/// Arbitrary bytes are refused as corrupt, or are a row that can be stored again.
fn try_row<T: Serialize + for<'de> Deserialize<'de>>(value: &[u8]) {
    match decode::<T>(Family::Meta, b"key", value) {
        Ok(row) => assert!(encode(&row).is_ok()),
        Err(error) => assert_eq!(error.kind(), Kind::Corrupt),
    }
}

fn try_every_row(value: &[u8]) {
    try_row::<DentryRow>(value);
    try_row::<InodeRow>(value);
    try_row::<ChunkRow>(value);
    try_row::<DirRow>(value);
    try_row::<XattrRow>(value);
    try_row::<SecondRow>(value);
    try_row::<FeedRow>(value);
    try_row::<BlobRow>(value);
    try_row::<UploadRow>(value);
    try_row::<DoomedRow>(value);
    try_row::<UnverifiedRow>(value);
    try_row::<GroupRow>(value);
    try_row::<CountersRow>(value);
    try_row::<NameRow>(value);
    try_row::<VolumeRow>(value);
    try_row::<SessionRow>(value);
    try_row::<SnapshotRow>(value);
    try_row::<PinRow>(value);
    try_row::<OrphanRow>(value);
    try_row::<ReapRow>(value);
    try_row::<RestoreRow>(value);
    try_row::<CopyRow>(value);
    try_row::<DrainRow>(value);
    try_row::<TailRow>(value);
    try_row::<RangeRow>(value);
    try_row::<ReceiptRow>(value);
    if let Err(error) = decode::<HotRow>(Family::Hot, b"key", value) {
        assert_eq!(error.kind(), Kind::Corrupt);
    }
}

/// The names and inodes of the tree that was there before the damage.
fn things(view: &MemoryView) -> (Vec<Place>, BTreeSet<InodeId>) {
    let mut places = Vec::new();
    let mut inodes = BTreeSet::from([InodeId::ROOT, InodeId::new(u64::MAX)]);
    for (key, _) in view.rows(Family::Dentry) {
        let parent = InodeId::from_key(keys::part(&key, 8).unwrap());
        places.extend(Name::new(&key[16..]).map(|name| Place { parent, name }));
    }
    inodes.extend(
        view.rows(Family::Inode).iter().map(|(key, _)| InodeId::from_key(keys::part(key, 8).unwrap())),
    );
    (places, inodes)
}

/// Asks whatever can be asked about a volume, now or at a moment of its past.
fn ask_everything(view: &dyn Read, (places, inodes): &(Vec<Place>, BTreeSet<InodeId>)) -> Vec<Error> {
    let mut errors: Vec<Error> = Vec::new();
    let mut ask = |question: Query| errors.extend(query(view, VolumeId::new(1), &question).err());
    for at in places {
        ask(Query::Lookup { at: at.clone() });
    }
    for ino in inodes {
        ask(Query::Inode { ino: *ino });
        ask(Query::ReadDir { dir: *ino, after: None, limit: 3 });
        ask(Query::Chunks { ino: *ino, cver: None, first: 0, count: 10 });
        ask(Query::Xattrs { ino: *ino });
    }
    ask(Query::Usage);
    errors
}

/// Runs whatever reads rows.
fn read_everything(view: &MemoryView, things: &(Vec<Place>, BTreeSet<InodeId>)) -> Vec<Error> {
    let mut errors = ask_everything(view, things);
    let last = volume_info(view, VolumeId::new(1)).ok().flatten().map_or(0, |info| info.seq.get().min(60));
    for seq in (0..=last).map(Seq::new) {
        match as_of(view, VolumeId::new(1), seq) {
            Ok(Ok(past)) => errors.extend(ask_everything(&past, things)),
            Ok(Err(_)) => {}
            Err(error) => errors.push(error),
        }
    }
    errors.extend(snapshots(view, VolumeId::new(1)).err());
    let moment = sitefs_base::Moment::Time(sitefs_base::Time::new(1_003, 0));
    errors.extend(seq_at(view, VolumeId::new(1), &moment, sitefs_base::Time::new(1 << 40, 0)).err());
    let digests: Vec<_> = (1..8).map(|of| sitefs_base::Digest::new([of; 64])).collect();
    let site = sitefs_base::SiteId::new(1);
    errors.extend(locate(view, VolumeId::new(1), &digests).err());
    errors.extend(hot_blobs(view, None, 100).err());
    for hot in hot_blobs(view, None, 100).unwrap_or_default() {
        errors.extend(hot_bytes(view, site, hot.generation).err());
        errors.extend(upload_slot(view, (site, VolumeId::new(1)), &hot.digest, hot.generation).err());
    }
    errors.extend(unverified(view, 100).err());
    errors.extend(volumes(view).err());
    errors.extend(volume_by_name(view, &"acme/live".parse().unwrap()).err());
    errors.extend(group_info(view).err());
    errors.extend(last_at(view).err());
    errors.extend(session_info(view, VolumeId::new(1), SessionId::new(7)).err());
    errors.extend(events_since(view, VolumeId::new(1), Seq::ZERO, 100).err());
    errors.extend(read_upkeep(view, things));
    for family in Family::ALL {
        errors.extend(checksum(view, family).err());
    }
    errors
}

/// Runs what leaders read before they merge, remove, restore, promise and forget.
fn read_upkeep(view: &MemoryView, (places, inodes): &(Vec<Place>, BTreeSet<InodeId>)) -> Vec<Error> {
    let (volume, far) = (VolumeId::new(1), sitefs_base::Time::new(1 << 40, 0));
    let mut errors: Vec<Error> = Vec::new();
    errors.extend(tails(view, far, 100).err());
    errors.extend(restores(view, 100).err());
    errors.extend(volumes_to_reap(view, None, 100).err());
    errors.extend(retention(view).err());
    errors.extend(horizon_is_due(view, volume, sitefs_base::Time::new(1_003, 0), far).err());
    errors.extend(history_bytes(view, volume).err());
    errors.extend(time_of(view, volume, Seq::new(3)).err());
    let to = places.first().map_or(InodeId::ROOT, |place| place.parent);
    for ino in inodes {
        errors.extend(chunk_layout(view, volume, *ino, 0).err());
        let set = SetAttr { size: Some(300), ..SetAttr::default() };
        let copy = Op::CloneRange {
            from: *ino,
            from_offset: 1,
            to,
            to_offset: 9,
            len: u64::MAX,
            expect_from_cver: None,
        };
        for op in [Op::SetAttr { ino: *ino, set }, copy] {
            errors.extend(growth_bound(view, volume, &op).err());
        }
    }
    errors
}

/// A row of a family that has any: small families are damaged as often as large ones.
fn pick(view: &MemoryView, row: Index) -> (Family, Row) {
    let families = Family::ALL.map(|family| (family, view.rows(family)));
    let full: Vec<_> = families.iter().filter(|(_, rows)| !rows.is_empty()).collect();
    let (family, rows) = full[row.index(full.len())];
    // The digits of the number that are not used up yet.
    (*family, rows[row.index(usize::MAX >> 8) % rows.len()].clone())
}

/// The same commands under new numbers, so that none is a retry.
fn again(log: &[Command]) -> Vec<Command> {
    let mut commands = log.to_vec();
    for (at, command) in commands.iter_mut().enumerate() {
        if let CommandBody::Op { envelope, .. } = &mut command.body {
            envelope.op = OpId::new(10_000 + at as u64);
            envelope.ack_below = envelope.op;
        }
    }
    commands
}

/// An error says that a row is corrupt and which, in the form that people and tools read.
fn check_error(error: &Error) -> Result<(), TestCaseError> {
    prop_assert_eq!(error.kind(), Kind::Corrupt, "{}", error);
    prop_assert!(error.doing().starts_with("the row "), "{}", error);
    Ok(())
}

/// Damage after which the row cannot be decoded is blamed on this row and no other.
fn check_blame(errors: &[Error], family: Family, key: &[u8]) -> Result<(), TestCaseError> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let names = format!("the row {hex} of family {} ", family.name());
    let undecodable = ["cannot be decoded", "has format", "is empty", "bytes too many"];
    for error in errors.iter().filter(|error| undecodable.iter().any(|text| error.doing().contains(text))) {
        prop_assert!(error.doing().starts_with(&names), "{} but damaged is {}", error, names);
    }
    Ok(())
}

/// `SITEFS_FUZZ` asks for another number of cases.
fn config() -> ProptestConfig {
    let asked = std::env::var("SITEFS_FUZZ").ok().map(|text| text.parse().unwrap());
    ProptestConfig { cases: asked.unwrap_or(1_000), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_are_no_row_or_a_row_that_can_be_stored(
        mut value in prop::collection::vec(any::<u8>(), 0..400), good in any::<bool>(),
    ) {
        if good && let Some(version) = value.first_mut() {
            *version = encode(&()).unwrap()[0];
        }
        try_every_row(&value);
    }

    #[test]
    fn damaged_rows_are_no_row_or_a_row_that_can_be_stored(
        cell in 0..16usize, row in any::<Index>(), damage in prop::collection::vec(damage(), 1..4),
    ) {
        let rows: Vec<Row> = Family::ALL.iter().flat_map(|family| CELLS[cell].0.rows(*family)).collect();
        try_every_row(&hurt(rows[row.index(rows.len())].1.clone(), &damage));
    }

    #[test]
    fn one_damaged_value_is_named_and_changes_nothing(
        cell in 0..16usize, row in any::<Index>(), from in any::<Index>(),
        damage in prop::collection::vec(damage(), 1..3),
    ) {
        let (view, log) = &CELLS[cell];
        let (family, (key, value)) = &pick(view, row);
        let family = *family;
        let mut hurt_view = view.clone();
        hurt_view.put(family, key, hurt(value.clone(), &damage));
        let mut errors = read_everything(&hurt_view, &things(view));
        let commands = again(log);
        for command in commands.iter().cycle().skip(from.index(commands.len())).take(12) {
            let before = hurt_view.clone();
            if let Err(error) = apply(&mut hurt_view, command) {
                prop_assert_eq!(&hurt_view, &before, "an error changes nothing");
                errors.push(error);
            }
        }
        errors.iter().try_for_each(check_error)?;
        check_blame(&errors, family, key)?;
    }

    #[test]
    fn one_damaged_key_never_makes_a_panic(
        cell in 0..16usize, row in any::<Index>(), from in any::<Index>(),
        damage in prop::collection::vec(damage(), 1..3),
    ) {
        let (view, log) = &CELLS[cell];
        let (family, (key, value)) = &pick(view, row);
        let family = *family;
        let mut hurt_view = view.clone();
        hurt_view.delete(family, key);
        hurt_view.put(family, &hurt(key.clone(), &damage), value.clone());
        let mut errors = read_everything(&hurt_view, &things(view));
        let commands = again(log);
        for command in commands.iter().cycle().skip(from.index(commands.len())).take(12) {
            errors.extend(apply(&mut hurt_view, command).err());
        }
        errors.iter().try_for_each(check_error)?;
    }
}

#[test]
fn no_number_in_the_rows_that_commands_reckon_with_makes_a_panic() {
    let (view, log) = &CELLS[1];
    let (commands, things) = (again(log), things(view));
    let central = view.rows(Family::Meta).into_iter().filter(|(key, _)| b"CV".contains(&key[0]));
    for (at, (key, value)) in central.enumerate() {
        for place in 1..value.len() {
            let mut hurt_view = view.clone();
            let hurt = [&value[..place], &HUGE, &value[place + 1..]].concat();
            hurt_view.put(Family::Meta, &key, hurt);
            let mut errors =
                if place % 8 == at % 8 { read_everything(&hurt_view, &things) } else { Vec::new() };
            for command in commands.iter().cycle().skip(place).take(20) {
                errors.extend(apply(&mut hurt_view, command).err());
            }
            for error in errors {
                assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            }
        }
    }
}

/// One byte of so many; `SITEFS_FUZZ_STRIDE=1` tries every byte of every row, which takes minutes.
fn stride() -> usize {
    std::env::var("SITEFS_FUZZ_STRIDE").map_or(499, |text| text.parse().unwrap())
}

#[test]
fn no_number_in_any_row_makes_a_panic() {
    let mut failures = BTreeSet::new();
    let (mut tried, stride) = (0, stride());
    for (view, log) in CELLS.iter() {
        let (commands, things) = (again(log), things(view));
        for family in Family::ALL {
            for (key, value) in view.rows(family) {
                for place in 1..value.len().min(60) {
                    tried += 1;
                    if tried % stride != 0 {
                        continue;
                    }
                    let mut hurt_view = view.clone();
                    let hurt = [&value[..place], &HUGE, &value[place + 1..]].concat();
                    hurt_view.put(family, &key, hurt);
                    let (commands, things) = (&commands, &things);
                    let ok = std::panic::catch_unwind(move || {
                        let mut errors = read_everything(&hurt_view, things);
                        for command in commands.iter().cycle().skip(place).take(20) {
                            errors.extend(apply(&mut hurt_view, command).err());
                        }
                        errors.iter().for_each(|error| assert_eq!(error.kind(), Kind::Corrupt, "{error}"));
                    });
                    if ok.is_err() {
                        failures.insert((family, place));
                    }
                }
            }
        }
    }
    assert_eq!(failures, BTreeSet::new());
}
