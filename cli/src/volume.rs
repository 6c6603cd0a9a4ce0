//! `sitefs volume`: making and listing volumes.

use crate::{
    Done,
    admin::{self, Admin, operator},
    failure::Hint,
    output::{Output, table},
    snapshot,
};
use clap::Subcommand;
use serde_json::{Value, json};
use sitefs_base::{ByteSize, Error, Kind, VolumeName, display_bytes, op::Usage};
use sitefs_proto::{
    admin::{CreateVolume, VolumeInfo},
    pb,
};

/// Makes and lists volumes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a volume, and its site if that is new.
    Create(Create),
    /// Lists all volumes of the cell.
    List {
        #[command(flatten)]
        target: admin::Target,
    },
    Snapshot(snapshot::Arguments),
}

#[derive(clap::Args)]
struct Create {
    /// The name: SITE/ENVIRONMENT, for example acme/live.
    name: VolumeName,
    /// The owner of the root directory [default: you].
    #[arg(long)]
    uid: Option<u32>,
    /// The group of the root directory [default: yours].
    #[arg(long)]
    gid: Option<u32>,
    /// The permission bits of the root directory, octal.
    #[arg(long, default_value = "755", value_parser = octal)]
    mode: u16,
    /// How much content it may hold, for example 10GiB [default: the cell's].
    #[arg(long, value_name = "SIZE")]
    bytes_limit: Option<ByteSize>,
    /// How many files and directories it may hold [default: the cell's].
    #[arg(long, value_name = "COUNT")]
    inodes_limit: Option<u64>,
    #[command(flatten)]
    target: admin::Target,
}

fn octal(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{text:?} are not permission bits, for example 755"))
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Create(create) => make(create, output),
        Command::List { target } => list(target, output),
        Command::Snapshot(arguments) => snapshot::run(arguments, output),
    }
}

fn make(create: &Create, output: &Output) -> Done {
    let name = &create.name;
    let request = CreateVolume {
        name: name.clone(),
        uid: create.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        gid: create.gid.unwrap_or_else(|| rustix::process::getegid().as_raw()),
        mode: create.mode,
        bytes_limit: create.bytes_limit.map(ByteSize::get),
        inodes_limit: create.inodes_limit,
        claimed_identity: operator(),
    };
    let made = Admin::connect(&create.target)?.create_volume(request.into());
    let id = match made {
        Err(error) if error.kind() == Kind::AlreadyExists => {
            return Err(error).hint("`sitefs volume list` shows it");
        }
        other => other?,
    };
    output.result(&json!({ "name": name.to_string(), "id": id }), || {
        format!("created {name}; mount it: sitefs mount {name} DIR --cell HOST:PORT --cache DIR --insecure")
    })
}

fn list(target: &admin::Target, output: &Output) -> Done {
    let volumes = Admin::connect(target)?.list_volumes()?;
    let volumes = volumes.into_iter().map(VolumeInfo::try_from).collect::<Result<Vec<_>, Error>>()?;
    let json: Vec<Value> = volumes.iter().map(as_json).collect();
    output.result(&Value::from(json), || match &volumes[..] {
        [] => "no volumes; make one: sitefs volume create acme/live".to_owned(),
        volumes => {
            let heading = ["volume", "content", "limit", "inodes", "seq"].map(str::to_owned).to_vec();
            table(&std::iter::once(heading).chain(volumes.iter().map(as_row)).collect::<Vec<_>>())
        }
    })
}

fn as_row(info: &VolumeInfo) -> Vec<String> {
    let Usage { bytes_used, bytes_limit, inodes_used, .. } = info.usage;
    vec![
        info.name.to_string(),
        display_bytes(bytes_used),
        display_bytes(bytes_limit),
        inodes_used.to_string(),
        info.seq.get().to_string(),
    ]
}

fn as_json(info: &VolumeInfo) -> Value {
    let pb::Usage { bytes_used, bytes_limit, inodes_used, inodes_limit } = info.usage.into();
    json!({
        "name": info.name.to_string(),
        "id": info.id.get(),
        "site": info.site.get(),
        "seq": info.seq.get(),
        "usage": {
            "bytes_used": bytes_used,
            "bytes_limit": bytes_limit,
            "inodes_used": inodes_used,
            "inodes_limit": inodes_limit,
        },
    })
}
