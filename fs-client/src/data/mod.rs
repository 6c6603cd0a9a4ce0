//! Content: working copies of files being written, verified reads of blobs, uploads.

mod commit;
mod layout;
mod loans;
mod read;
mod transfer;
mod working;

pub use commit::{Prepared, prepare};
pub use layout::{LayoutView, locate as locate_content, read as read_content};
pub use loans::{Lender, Loan};
pub use read::{BlobReader, Fetched, Pace, look_after};
pub use transfer::CellBlobs;
pub use working::{Captured, Working};
