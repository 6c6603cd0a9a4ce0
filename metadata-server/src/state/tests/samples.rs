//! Rows for tests of the store.

use super::super::{Family, Row, View, keys, rows, rows::*};
use sitefs_base::{Seq, Time, VolumeId, VolumeSettings};

/// Sets what a volume needs of its history.
pub fn needs(view: &mut dyn View, volume: VolumeId, horizon: Seq, pins: &[Seq]) {
    let row = VolumeRow {
        site: sitefs_base::SiteId::new(1),
        name: "acme/live".parse().unwrap(),
        limits: super::super::VolumeLimits { bytes: 0, inodes: 0 },
        settings: VolumeSettings::default(),
        created_at: Time::EPOCH,
        seq: Seq::ZERO,
        next_ino: sitefs_base::InodeId::ROOT,
        bytes_used: 0,
        inodes_used: 0,
        second: 0,
        second_floor: Seq::ZERO,
        feed_floor: Seq::ZERO,
        horizon,
        pins: pins.to_vec(),
        history_bytes: 0,
        history_limit: None,
        deleted: None,
    };
    view.put(Family::Meta, &keys::volume(volume), rows::encode(&row).unwrap());
}

/// Removes a volume.
pub fn gone(view: &mut dyn View, volume: VolumeId) {
    view.delete(Family::Meta, &keys::volume(volume));
}

/// Says how many volumes were ever made.
pub fn made(view: &mut dyn View, volumes: u64) {
    let row = CountersRow { volumes, ..CountersRow::default() };
    view.put(Family::Meta, keys::COUNTERS, rows::encode(&row).unwrap());
}

/// A superseded row of an inode's extended attribute; any history family takes it.
pub fn superseded(volume: VolumeId, number: u64, born: Seq, died: Seq) -> Row {
    let key = [&volume.to_key()[..], &number.to_be_bytes(), &died.to_key()].concat();
    (key, rows::encode(&XattrRow { born, value: bytes::Bytes::from_static(b"value") }).unwrap())
}
