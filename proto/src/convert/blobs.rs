//! Requests for the bytes of blobs. The group stands beside the domain type, because it says
//! which group of the cell answers.

use super::{digest, digest_bytes, group, need, session, session_bytes, short};
use crate::pb;
use sitefs_base::{
    Error, GroupId, InodeId, Result, limits,
    session::{FetchBlob, StoreBlob},
};

impl From<(GroupId, FetchBlob)> for pb::FetchRequest {
    fn from((group, fetch): (GroupId, FetchBlob)) -> Self {
        Self {
            group: group.get(),
            session: session_bytes(fetch.session),
            ino: fetch.ino.get(),
            digest: digest_bytes(&fetch.digest),
        }
    }
}

impl TryFrom<pb::FetchRequest> for (GroupId, FetchBlob) {
    type Error = Error;
    fn try_from(request: pb::FetchRequest) -> Result<Self> {
        let fetch = FetchBlob {
            session: session(&request.session)?,
            ino: InodeId::new(request.ino),
            digest: digest(&request.digest)?,
        };
        Ok((group(request.group)?, fetch))
    }
}

impl From<(GroupId, StoreBlob)> for pb::StoreRequest {
    fn from((group, store): (GroupId, StoreBlob)) -> Self {
        Self {
            group: group.get(),
            session: session_bytes(store.session),
            digest: digest_bytes(&store.digest),
            generation: Some(store.generation.into()),
            data: store.bytes,
        }
    }
}

impl TryFrom<pb::StoreRequest> for (GroupId, StoreBlob) {
    type Error = Error;
    fn try_from(request: pb::StoreRequest) -> Result<Self> {
        if request.data.is_empty() {
            return Err(Error::invalid("an empty blob"));
        }
        let max = usize::try_from(limits::CHUNK_SIZE).unwrap_or(usize::MAX);
        let store = StoreBlob {
            session: session(&request.session)?,
            digest: digest(&request.digest)?,
            generation: need(request.generation, "generation")?.into(),
            bytes: short(request.data, max, "a blob")?,
        };
        Ok((group(request.group)?, store))
    }
}
