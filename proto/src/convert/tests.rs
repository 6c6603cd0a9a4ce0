//! Every frame survives the wire, and no bytes from the wire can do harm.

use super::*;
use prost::Message;
use proptest::{collection::vec, option, prelude::*, strategy::Union};
use sitefs_base::{
    Attr, AttrFlags, Content, Errno, Extent, FileKind, Inode, Kind, OpId, Seq, SiteId, VolumeId, limits,
    op::*,
    session::{Attach, Attached, Closing, FetchBlob, StoreBlob, ToCell, ToMount},
};

fn ino() -> impl Strategy<Value = InodeId> {
    any::<u64>().prop_map(InodeId::new)
}
fn seq() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq::new)
}
fn op_id() -> impl Strategy<Value = OpId> {
    any::<u64>().prop_map(OpId::new)
}
fn a_session() -> impl Strategy<Value = SessionId> {
    any::<u128>().prop_map(SessionId::new)
}
fn a_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(|half| {
        let mut raw = [7; 64];
        raw[..32].copy_from_slice(&half);
        Digest::new(raw)
    })
}
fn an_errno() -> impl Strategy<Value = Errno> {
    (1..=4095).prop_map(Errno::new)
}
fn bytes_up_to(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}
fn a_name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=40)
        .prop_filter_map("not a name", |raw| Name::new(raw).ok())
        .prop_union(Just(Name::new([0xff; 255]).unwrap()).boxed().into_inner_name())
}
trait IntoInnerName {
    fn into_inner_name(self) -> Self;
}
impl IntoInnerName for BoxedStrategy<Name> {
    fn into_inner_name(self) -> Self {
        self
    }
}
