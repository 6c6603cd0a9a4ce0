//! Content: working copies of files being written, verified reads of blobs, uploads.

mod layout;
mod read;
mod transfer;
mod working;

pub use layout::LayoutView;
pub use read::BlobReader;
pub use transfer::CellBlobs;
pub use working::{Captured, Working};
