//! A file tree as plain maps. A copy costs little, since copies share their nodes.

use bytes::Bytes;
use sitefs_base::{
    Attr, AttrFlags, Content, Extent, FileKind, Inode, InodeId, Seq, Time,
    limits::{CHUNK_SIZE, INODE_EXTENTS_MAX},
    op::{ChunkLayout, Place},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub cver: Seq,
    pub xattrs: BTreeMap<Vec<u8>, Bytes>,
    pub body: Body,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    Dir {
        /// None of a directory that lost its name with everything in it, and of a copy that has none yet.
        parent: Option<InodeId>,
        entries: BTreeMap<Vec<u8>, InodeId>,
    },
    /// A file whose bytes are known; the empty file too.
    Bytes(Bytes),
    /// A file that lies in blobs; what no extent covers reads as zeros.
    Blobs {
        size: u64,
        extents: Vec<Extent>,
        /// Which chunks have a row, and since when it holds; `None`: the extents stand with the inode.
        /// Only while a restore copies the file is there a chunk without.
        rows: Option<BTreeMap<u32, Seq>>,
    },
    Target(Bytes),
    Special,
}

impl Node {
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) | Body::Target(bytes) => bytes.len() as u64,
            Body::Blobs { size, .. } => *size,
            Body::Dir { .. } | Body::Special => 0,
        }
    }

    pub fn allocated(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Blobs { extents, .. } => extents.iter().map(|extent| u64::from(extent.len)).sum(),
            Body::Target(_) | Body::Dir { .. } | Body::Special => 0,
        }
    }

    pub fn extents(&self) -> &[Extent] {
        match &self.body {
            Body::Blobs { extents, .. } => extents,
            _ => &[],
        }
    }

    /// The extents that rows name by now: those of a copy whose rows a restore has yet to make are not among
    /// them.
    pub fn named(&self) -> impl Iterator<Item = &Extent> {
        let rows = self.rows();
        self.extents()
            .iter()
            .filter(move |extent| rows.is_none_or(|rows| rows.contains_key(&chunk_of(extent))))
    }

    pub fn entries(&self) -> Option<&BTreeMap<Vec<u8>, InodeId>> {
        match &self.body {
            Body::Dir { entries, .. } => Some(entries),
            _ => None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// What readers get beside the attributes.
    pub fn content(&self) -> Content {
        match &self.body {
            Body::Bytes(bytes) if !bytes.is_empty() => Content::Inline(bytes.clone()),
            Body::Bytes(_) | Body::Dir { .. } | Body::Special => Content::Empty,
            Body::Blobs { rows: Some(_), .. } => Content::Chunked,
            Body::Blobs { extents, .. } => Content::Extents(extents.clone()),
            Body::Target(target) => Content::Target(target.clone()),
        }
    }

    /// The chunks that have rows.
    pub fn rows(&self) -> Option<&BTreeMap<u32, Seq>> {
        match &self.body {
            Body::Blobs { rows, .. } => rows.as_ref(),
            _ => None,
        }
    }

    /// The extents of one chunk.
    pub fn chunk(&self, chunk: u32) -> Vec<Extent> {
        self.extents().iter().filter(|extent| chunk_of(extent) == chunk).cloned().collect()
    }

    /// Gives a file another layout; `named`: the chunks for which the operation has one.
    pub fn lay(&mut self, size: u64, extents: Vec<Extent>, named: &[u32], seq: Seq) {
        let rows = if named.is_empty() && size >= self.size() {
            self.rows().is_some()
        } else {
            extents.len() > INODE_EXTENTS_MAX
        };
        let since = |chunk: u32, new: &[Extent]| {
            let old = self.rows().and_then(|rows| rows.get(&chunk).copied());
            old.filter(|_| self.chunk(chunk) == new).unwrap_or(seq)
        };
        let rows = rows
            .then(|| by_chunk(&extents).iter().map(|(chunk, new)| (*chunk, since(*chunk, new))).collect());
        self.body = match size {
            0 => Body::Bytes(Bytes::new()),
            _ => Body::Blobs { size, extents, rows },
        };
    }

    /// A file in its old form all anew: with rows of its own.
    pub fn relaid(mut self, seq: Seq) -> Self {
        if let Body::Blobs { rows: Some(rows), .. } = &mut self.body {
            rows.values_mut().for_each(|since| *since = seq);
        }
        self
    }

    pub fn chunks(&self) -> Vec<ChunkLayout> {
        let mut chunks: Vec<ChunkLayout> = Vec::new();
        let is_there = |chunk: &u32| self.rows().is_none_or(|rows| rows.contains_key(chunk));
        for extent in self.extents().iter().filter(|extent| is_there(&chunk_of(extent))) {
            let number = chunk_of(extent);
            match chunks.last_mut() {
                Some(last) if last.chunk == number => last.extents.push(extent.clone()),
                _ => chunks.push(ChunkLayout { chunk: number, extents: vec![extent.clone()] }),
            }
        }
        chunks
    }
}

pub fn chunk_of(extent: &Extent) -> u32 {
    (extent.offset / CHUNK_SIZE) as u32
}

pub fn by_chunk(extents: &[Extent]) -> BTreeMap<u32, Vec<Extent>> {
    let mut chunks = BTreeMap::<u32, Vec<Extent>>::new();
    for extent in extents {
        chunks.entry(chunk_of(extent)).or_default().push(extent.clone());
    }
    chunks
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<InodeId, Arc<Node>>,
}

impl Tree {
    pub fn nodes(&self) -> impl Iterator<Item = (InodeId, &Node)> {
        self.nodes.iter().map(|(ino, node)| (*ino, &**node))
    }

    pub fn get(&self, ino: InodeId) -> Option<&Node> {
        self.nodes.get(&ino).map(|node| &**node)
    }

    pub fn edit(&mut self, ino: InodeId) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&ino).unwrap())
    }

    pub fn insert(&mut self, ino: InodeId, node: Node) {
        assert!(self.nodes.insert(ino, Arc::new(node)).is_none(), "{ino} is new");
    }

    pub fn remove(&mut self, ino: InodeId) {
        self.nodes.remove(&ino).unwrap();
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn bytes(&self) -> u64 {
        self.nodes.values().map(|node| node.allocated()).sum()
    }

    pub fn find(&self, at: &Place) -> Option<InodeId> {
        self.get(at.parent)?.entries()?.get(at.name.as_bytes()).copied()
    }

    pub fn entries(&mut self, dir: InodeId) -> &mut BTreeMap<Vec<u8>, InodeId> {
        match &mut self.edit(dir).body {
            Body::Dir { entries, .. } => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    /// How many names lead to each inode.
    pub fn names(&self) -> BTreeMap<InodeId, u32> {
        let mut names = BTreeMap::new();
        for ino in self.nodes.values().filter_map(|node| node.entries()).flat_map(BTreeMap::values) {
            *names.entry(*ino).or_insert(0) += 1;
        }
        names
    }

    /// Everything to which a way leads from `top`, itself too.
    pub fn below(&self, top: InodeId) -> BTreeSet<InodeId> {
        let (mut found, mut next) = (BTreeSet::new(), vec![top]);
        while let Some(ino) = next.pop() {
            if found.insert(ino) {
                next.extend(self.get(ino).and_then(Node::entries).into_iter().flat_map(BTreeMap::values));
            }
        }
        found
    }

    /// What has lost its last name, or has none yet.
    pub fn nameless(&self) -> BTreeSet<InodeId> {
        let names = self.names();
        let root = [InodeId::ROOT];
        let lost = self.nodes.keys().filter(|ino| !names.contains_key(ino) && !root.contains(ino));
        lost.copied().collect()
    }

    fn subdirs(&self, node: &Node) -> u32 {
        let children = node.entries().into_iter().flat_map(BTreeMap::values);
        children.filter(|child| self.get(**child).unwrap().is_dir()).count() as u32
    }

    pub fn attr(&self, ino: InodeId, names: &BTreeMap<InodeId, u32>) -> Attr {
        let node = self.get(ino).unwrap();
        let has = |name: &[u8]| node.xattrs.contains_key(name);
        Attr {
            ino,
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            // A copy that has no name yet counts the one that it will get.
            nlink: if node.is_dir() { 2 + self.subdirs(node) } else { names.get(&ino).copied().unwrap_or(1) },
            size: node.size(),
            allocated: node.allocated(),
            rdev: node.rdev,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
            cver: node.cver,
            flags: AttrFlags {
                has_xattrs: !node.xattrs.is_empty(),
                has_access_acl: has(ACCESS),
                has_default_acl: has(DEFAULT),
            },
        }
    }

    pub fn inode(&self, ino: InodeId, names: &BTreeMap<InodeId, u32>) -> Inode {
        Inode { attr: self.attr(ino, names), content: self.get(ino).unwrap().content() }
    }
}
