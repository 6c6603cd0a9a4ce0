//! A file tree as plain maps. A copy costs little, since copies share their nodes.

use bytes::Bytes;
use sitefs_base::{
    Attr, AttrFlags, Content, Extent, FileKind, Inode, InodeId, Seq, Time,
    limits::{CHUNK_SIZE, INODE_EXTENTS_MAX},
    op::{ChunkLayout, Place},
};
use std::{collections::BTreeMap, sync::Arc};

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
        parent: InodeId,
        entries: BTreeMap<Vec<u8>, InodeId>,
    },
    /// A file whose bytes are known; the empty file too.
    Bytes(Bytes),
    /// A file that lies in blobs; what no extent covers reads as zeros.
    Blobs {
        size: u64,
        extents: Vec<Extent>,
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
            Body::Blobs { extents, .. } if extents.len() > INODE_EXTENTS_MAX => Content::Chunked,
            Body::Blobs { extents, .. } => Content::Extents(extents.clone()),
            Body::Target(target) => Content::Target(target.clone()),
        }
    }

    pub fn chunks(&self) -> Vec<ChunkLayout> {
        let mut chunks: Vec<ChunkLayout> = Vec::new();
        for extent in self.extents() {
            let number = (extent.offset / CHUNK_SIZE) as u32;
            match chunks.last_mut() {
                Some(last) if last.chunk == number => last.extents.push(extent.clone()),
                _ => chunks.push(ChunkLayout { chunk: number, extents: vec![extent.clone()] }),
            }
        }
        chunks
    }
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

    /// Whether `dir` is `top` or lies below it.
    pub fn is_below(&self, dir: InodeId, top: InodeId) -> bool {
        let children = || self.get(top)?.entries().map(|entries| entries.values());
        dir == top || children().into_iter().flatten().any(|child| self.is_below(dir, *child))
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
            nlink: if node.is_dir() { 2 + self.subdirs(node) } else { names[&ino] },
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
