//! Publishing content by inode (DESIGN D4).

use super::{
    attrs, content,
    mutation::{Done, Mutation},
    namespace,
    reads::Node,
    reap, session,
    stop::{Step, refuse, require},
};
use sitefs_base::{
    Errno, FileKind, InodeId, Time,
    op::{Change, Commit, Create, Extra, Publish, SetTime},
};

/// Where a commit goes.
enum Target<'c> {
    Existing(Box<Node>),
    New(&'c Create, &'c Publish),
    /// The inode has lost its last name.
    Gone,
}

pub(super) fn commit(m: &mut Mutation, commit: &Commit) -> Step<Done> {
    require(commit.set.size.is_none(), Errno::EINVAL)?;
    if let Some(content) = &commit.content {
        content::check(content)?;
    }
    match target(m, commit)? {
        Target::Existing(node) => change(m, *node, commit),
        Target::New(create, link) => publish(m, commit, create, link),
        Target::Gone => Ok(Done { ino: Some(commit.ino), extra: Extra::Dropped }),
    }
}

fn target<'c>(m: &Mutation, commit: &'c Commit) -> Step<Target<'c>> {
    if let Some(node) = m.find(commit.ino)? {
        if let Some(link) = &commit.link {
            // The inode was published before, by a commit whose outcome the client does not know or
            // as the first of several. It may have been renamed since, so that the name is no matter;
            // but a session can only have published a number of its own.
            let under_this_name = m.dentry(&link.at)?.is_some_and(|entry| entry.ino == commit.ino);
            require(under_this_name || session::owns_number(m, commit.ino)?, Errno::EINVAL)?;
        }
        return Ok(Target::Existing(Box::new(node)));
    }
    let Some(create) = &commit.create else {
        let was_given = commit.ino >= InodeId::ROOT && commit.ino < m.volume.next_ino;
        return if was_given { Ok(Target::Gone) } else { refuse(Errno::ESTALE) };
    };
    let link = commit.link.as_ref().ok_or(Errno::EINVAL)?;
    require(session::owns_number(m, commit.ino)?, Errno::EINVAL)?;
    if reap::is_orphan(m, commit.ino)? {
        return Ok(Target::Gone);
    }
    m.parent(&link.at)?;
    match m.dentry(&link.at)? {
        None => Ok(Target::New(create, link)),
        Some(_) if link.exclusive => refuse(Errno::EEXIST),
        Some(entry) => match entry.kind {
            FileKind::File => Ok(Target::Existing(Box::new(m.named(entry.ino)?))),
            FileKind::Directory => refuse(Errno::EISDIR),
            _ => refuse(Errno::EEXIST),
        },
    }
}

/// New content and attributes for an inode that has a name.
fn change(m: &mut Mutation, mut node: Node, commit: &Commit) -> Step<Done> {
    let ino = node.ino;
    m.touch(ino);
    match node.row.kind {
        FileKind::File => {}
        FileKind::Directory if commit.content.is_some() => return refuse(Errno::EISDIR),
        _ => require(commit.content.is_none(), Errno::EINVAL)?,
    }
    require(commit.expect_cver.is_none_or(|cver| cver == node.row.cver), Errno::ESTALE)?;
    if let Some(content) = &commit.content {
        content::write(m, &mut node, content, &commit.uploaded)?;
        m.changed(Change::Content(ino));
    } else if commit.set.is_empty() {
        return Ok(Done::with(ino));
    } else {
        m.changed(Change::Attr(ino));
    }
    attrs::update_as_of(m, &mut node, &commit.set, commit.content.is_some(), commit.changed)?;
    m.save(&node)?;
    Ok(Done::with(ino))
}

/// A new file with its first name; without content it is empty.
fn publish(m: &mut Mutation, commit: &Commit, create: &Create, link: &Publish) -> Step<Done> {
    require(commit.expect_cver.is_none(), Errno::ESTALE)?;
    let parent = m.parent(&link.at)?;
    let mut node = namespace::new_node(m, &parent, commit.ino, FileKind::File, create)?;
    if let Some(content) = &commit.content {
        content::write(m, &mut node, content, &commit.uploaded)?;
    }
    // A new inode has no ctime that could go back.
    node.row.ctime = commit.changed.unwrap_or(node.row.ctime).min(node.row.ctime);
    attrs::update_as_of(m, &mut node, &commit.set, true, commit.changed)?;
    m.changed(Change::Content(node.ino));
    namespace::publish_as_of(m, &link.at, &node, created(commit))
}

/// When a mount made the file that it publishes now: it has been accessed since then.
fn created(commit: &Commit) -> Option<Time> {
    match commit.set.atime {
        Some(SetTime::Written(created)) => Some(created),
        Some(SetTime::At(_) | SetTime::Now) | None => None,
    }
}
