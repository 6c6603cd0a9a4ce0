//! Content: working copies of files being written, verified reads of blobs, uploads.

mod commit;
mod layout;
mod loans;
mod read;
mod transfer;
mod working;

pub use commit::{Prepared, prepare};
pub use layout::{LayoutView, read as read_content};
pub use loans::{Lender, Loan};
pub use read::BlobReader;
pub use transfer::CellBlobs;
pub use working::{Captured, Working};
