//! What a check of a cell tells: shared by the cell, the wire and the command line.

/// How a check is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOptions {
    /// Rows to read in a second at most.
    pub rows_per_second: Option<u64>,
    /// The tree that each snapshot shows too.
    pub snapshots: bool,
    /// Whether the object store has every object, with its length.
    pub objects: bool,
    /// Read and hash every object.
    pub deep: bool,
    /// Bytes of objects to read in a second at most.
    pub bytes_per_second: Option<u64>,
    /// Where to go on with reading objects, as [`CheckProgress::resume`] said.
    pub resume: Option<String>,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckFinding {
    /// The name of its kind, which never changes.
    pub kind: String,
    /// Whether something is lost, wrong or in danger; otherwise it is only untidy.
    pub is_damage: bool,
    /// The volume's name, or its number where that cannot be read.
    pub volume: Option<String>,
    /// A path in the volume.
    pub path: Option<String>,
    /// The facts.
    pub what: String,
    /// What that means.
    pub means: String,
    /// What to do.
    pub advice: String,
    /// The key of the object, if it is about one blob.
    pub object: Option<String>,
    /// What would put it right, for people and for the cell.
    pub repair: Option<(String, Vec<u8>)>,
}

/// How far a check has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckProgress {
    /// `rows`, `objects`, `users` or `content`.
    pub stage: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, about.
    pub total: u64,
    /// Where another check could go on with reading objects.
    pub resume: Option<String>,
}

/// What a check has looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckSummary {
    /// Rows read.
    pub rows: u64,
    /// Volumes.
    pub volumes: u64,
    /// Inodes.
    pub inodes: u64,
    /// References to blobs, now and in the past.
    pub references: u64,
    /// Blobs.
    pub blobs: u64,
    /// Objects that were looked for.
    pub objects: u64,
    /// Objects that belong to no blob: uploads that were given up, or late ones. Garbage collection
    /// removes them.
    pub unused_objects: u64,
    /// Bytes that were read and hashed.
    pub bytes_read: u64,
    /// Findings that were too many to be told.
    pub untold: u64,
    /// Entries of the log that were not in the rows on disk yet and were checked all the same.
    pub replayed: u64,
}

/// What a check tells while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckEvent {
    /// Something was found.
    Found(Box<CheckFinding>),
    /// It has come so far.
    Progress(CheckProgress),
    /// It is done.
    Done(CheckSummary),
}
