//! The file that says what one node of a cell of several is. It is read and checked once; what is wrong
//! is said with its line.

use crate::failure::{Failure, Hint};
use serde::Deserialize;
use sitefs_base::{Error, NodeId};
use sitefs_metadata::server::{BackendConfig, GcConfig, PeersOfNode, ServerConfig};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use toml::Spanned;

/// Nodes of one cell.
const NODES_MAX: usize = 9;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cell: Spanned<String>,
    node: Spanned<u64>,
    data: PathBuf,
    insecure: Option<Spanned<bool>>,
    metrics: Option<SocketAddr>,
    listen: Listen,
    nodes: Spanned<BTreeMap<Spanned<String>, Spanned<SocketAddr>>>,
    blobs: Spanned<Blobs>,
    gc: Option<Collection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    sessions: Spanned<SocketAddr>,
    admin: Spanned<SocketAddr>,
    peers: Spanned<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Blobs {
    directory: Option<PathBuf>,
    bucket: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
}

/// How garbage is collected; what is left out is as the command line has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Collection {
    grace: Option<Spanned<String>>,
    interval: Option<Spanned<String>>,
    rate: Option<Spanned<u64>>,
}

/// What is wrong, with its line.
type Wrong = String;
type Checked<T> = Result<T, Wrong>;
/// The configuration, and where metrics are served.
type Parsed = (ServerConfig, Option<SocketAddr>);

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<Parsed, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    let parsed = parse(&text).map_err(|wrong| Error::invalid(format!("{}, {wrong}", path.display())));
    parsed.hint("docs/OPERATIONS.md shows a whole file")
}

fn parse(text: &str) -> Checked<Parsed> {
    let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let wrong = |at: usize, what: String| format!("line {}: {what}", line(at));
    let file: File = toml::from_str(text).map_err(|error| {
        wrong(error.span().map_or(0, |span| span.start), error.message().replace('\n', ", "))
    })?;
    match &file.insecure {
        Some(insecure) if *insecure.get_ref() => {}
        other => return Err(wrong(other.as_ref().map_or(0, |value| value.span().start), needs_insecure())),
    }
    check_name(file.cell.get_ref()).map_err(|what| wrong(file.cell.span().start, what))?;
    for address in [&file.listen.sessions, &file.listen.admin, &file.listen.peers] {
        check_address(*address.get_ref()).map_err(|what| wrong(address.span().start, what))?;
    }
    let nodes = nodes(&file.nodes, &wrong)?;
    let node = NodeId::new(*file.node.get_ref());
    match nodes.get(&node) {
        Some(address) if address == file.listen.peers.get_ref() => {}
        Some(address) => {
            let what = format!("{node} is at {address} in [nodes], but listens to nodes elsewhere");
            return Err(wrong(file.listen.peers.span().start, what));
        }
        None => return Err(wrong(file.node.span().start, format!("{node} is not among those in [nodes]"))),
    }
    let backend = backend(file.blobs.get_ref()).map_err(|what| wrong(file.blobs.span().start, what))?;
    let gc = collection(&file.gc.unwrap_or_default(), &wrong)?;
    let config = ServerConfig {
        data_dir: file.data,
        listen: file.listen.sessions.into_inner(),
        admin_listen: file.listen.admin.into_inner(),
        cell: file.cell.into_inner(),
        backend,
        insecure: true,
        gc,
        peers: Some(PeersOfNode { node, listen: file.listen.peers.into_inner(), nodes }),
    };
    Ok((config, file.metrics))
}

fn collection(file: &Collection, wrong: &impl Fn(usize, String) -> Wrong) -> Checked<GcConfig> {
    let time = |value: &Option<Spanned<String>>, default| match value {
        None => Ok(default),
        Some(text) => super::duration(text.get_ref()).map_err(|what| wrong(text.span().start, what)),
    };
    let default = GcConfig::default();
    let rate = match &file.rate {
        None => default.rate,
        Some(rate) if *rate.get_ref() > 0 => *rate.get_ref(),
        Some(rate) => {
            return Err(wrong(
                rate.span().start,
                "at a rate of 0 rows a second it would never end".to_owned(),
            ));
        }
    };
    let (grace, interval) = (time(&file.grace, default.grace)?, time(&file.interval, default.interval)?);
    Ok(GcConfig { grace, interval, rate, ..default })
}

fn needs_insecure() -> String {
    "this version has no certificates yet: write insecure = true, and use loopback addresses only".to_owned()
}

fn check_name(cell: &str) -> Checked<()> {
    if cell.is_empty() || cell.len() > 255 || cell.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(format!("{cell:?} cannot be the name of a cell: use 1 to 255 characters without spaces"));
    }
    Ok(())
}

fn check_address(address: SocketAddr) -> Checked<()> {
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not a loopback address, and insecure = true allows no other"));
    }
    if address.port() == 0 {
        return Err(format!("{address} must have a port: other nodes and mounts have to find it again"));
    }
    Ok(())
}

fn nodes(
    table: &Spanned<BTreeMap<Spanned<String>, Spanned<SocketAddr>>>,
    wrong: &impl Fn(usize, String) -> Wrong,
) -> Checked<BTreeMap<NodeId, SocketAddr>> {
    let mut nodes = BTreeMap::new();
    for (name, address) in table.get_ref() {
        let number = name.get_ref().parse::<u64>().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| {
            wrong(name.span().start, format!("{:?} is not the number of a node: use 1, 2, 3", name.get_ref()))
        })?;
        let (at, address) = (address.span().start, *address.get_ref());
        check_address(address).map_err(|what| wrong(at, what))?;
        if nodes.values().any(|other| *other == address) {
            return Err(wrong(at, format!("{address} is there twice")));
        }
        nodes.insert(NodeId::new(number), address);
    }
    if nodes.len() > NODES_MAX {
        return Err(wrong(table.span().start, format!("a cell has at most {NODES_MAX} nodes")));
    }
    Ok(nodes)
}

fn backend(blobs: &Blobs) -> Checked<BackendConfig> {
    match blobs {
        Blobs { directory: Some(path), bucket: None, endpoint: None, region: None } => {
            if path.is_absolute() {
                Ok(BackendConfig::Shared(path.clone()))
            } else {
                Err(format!("{} must be an absolute path, the same one on all nodes", path.display()))
            }
        }
        Blobs { directory: None, bucket: Some(bucket), endpoint, region } => Ok(BackendConfig::S3 {
            endpoint: endpoint.clone(),
            bucket: bucket.clone(),
            region: region.clone(),
        }),
        _ => Err("[blobs] says either directory, or bucket with endpoint and region".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"cell = "main"
node = 2
data = "/var/lib/sitefs"
insecure = true

[listen]
sessions = "127.0.0.1:7450"
admin = "127.0.0.1:7451"
peers = "127.0.0.1:7452"

[nodes]
1 = "127.0.0.1:7442"
2 = "127.0.0.1:7452"

[blobs]
directory = "/srv/blobs"
"#;

    #[test]
    fn a_good_file_is_taken() {
        let (config, metrics) = parse(GOOD).unwrap();
        let peers = config.peers.unwrap();
        assert_eq!((peers.node, peers.nodes.len(), metrics), (NodeId::new(2), 2, None));
        assert_eq!(config.backend, BackendConfig::Shared("/srv/blobs".into()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (from, to, line, words) in [
            ("node = 2", "node = 3", 2, "not among"),
            ("node = 2", "node = \"x\"", 2, "invalid type"),
            ("cell = \"main\"", "cell = \"a b\"", 1, "name of a cell"),
            ("insecure = true", "insecure = false", 4, "certificates"),
            ("data =", "date =", 3, "unknown field"),
            ("admin = \"127.0.0.1:7451\"", "admin = \"10.0.0.1:7451\"", 8, "loopback"),
            ("admin = \"127.0.0.1:7451\"", "admin = \"localhost\"", 8, "socket address"),
            ("sessions = \"127.0.0.1:7450\"", "sessions = \"127.0.0.1:0\"", 7, "must have a port"),
            ("peers = \"127.0.0.1:7452\"", "peers = \"127.0.0.1:7453\"", 9, "listens to nodes elsewhere"),
            ("1 = \"127.0.0.1:7442\"", "1 = \"127.0.0.1:7452\"", 13, "twice"),
            ("1 = \"127.0.0.1:7442\"", "one = \"127.0.0.1:7442\"", 12, "number of a node"),
            ("directory = \"/srv/blobs\"", "directory = \"blobs\"", 15, "absolute"),
            ("directory = \"/srv/blobs\"", "endpoint = \"x\"", 15, "either directory"),
            ("[nodes]", "[nodes", 11, ""),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(&format!("line {line}: ")), "{to}: {error}");
            assert!(error.contains(words), "{to}: {error}");
        }
    }
}
