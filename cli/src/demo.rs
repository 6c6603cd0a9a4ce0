//! `sitefs demo`: a cell of one node and a mount in one process, through the same code paths.

use crate::{
    Done,
    failure::{Failure, Hint},
    metrics::{self, Exporter, Page},
    mount, mountpoint,
    mountpoint::Missing,
    output::Output,
    places, server,
    signals::Stop,
    systemd,
};
use rustix::fs::FlockOperation;
use serde_json::json;
use sitefs_base::{Error, Result, VolumeName, VolumeView, make_private_dir};
use sitefs_client::Mount;
use sitefs_metadata::server::{Server, ServerConfig};
use std::{
    env,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::runtime::Runtime;

const VOLUME: &str = "acme/live";
/// The file that marks a data directory of the demo; locked while one runs.
const MARK: &str = "sitefs-demo";

/// Tries sitefs on this machine: a cell, a volume and a mount in one process.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to mount; made if missing.
    #[arg(default_value = "sitefs-demo-mount")]
    mountpoint: PathBuf,
    /// Where everything is kept [default: sitefs-demo in ~/.local/share].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    backend: server::BackendArguments,
    #[command(flatten)]
    gc: server::GcArguments,
    /// Where mounts connect; port 0 chooses a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where administration connects; port 0 chooses a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    admin_listen: SocketAddr,
    #[command(flatten)]
    options: mount::OptionArguments,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let data = match &arguments.data {
        Some(data) => data.clone(),
        None => default_data()?,
    };
    mountpoint::apart(&arguments.mountpoint, &data, "data directory")?;
    let data = places::absolute(&data)?;
    places::on_own_disk(&data, "data directory")?;
    let _lock = own(&data)?;
    let directory = mountpoint::prepare(&arguments.mountpoint, Missing::Create)?;
    let volume: VolumeName = VOLUME.parse()?;

    let runtime = server::runtime()?;
    let mut stop = runtime.block_on(async { Stop::listen() })?;
    let config = ServerConfig {
        data_dir: data.join("cell"),
        listen: arguments.listen,
        admin_listen: arguments.admin_listen,
        cell: "demo".to_owned(),
        backend: arguments.backend.config(),
        // The demo listens on loopback addresses only, which the server checks.
        insecure: true,
        gc: arguments.gc.config(),
    };
    let server = runtime.block_on(server::start(config))?;
    let mounted = make_volume(&runtime, &server, &volume).map_err(Failure::from).and_then(|()| {
        let cell = server.local_addr().to_string();
        let view = VolumeView { volume: volume.clone(), at: None };
        mount::start(arguments.options.config(&view, directory.clone(), cell, data.join("cache"), false))
    });
    let exported = arguments.options.metrics();
    let done = match mounted {
        Ok(mount) => runtime.block_on(async {
            let exporter = metrics::maybe(exported, page_of(&server, &mount)).await;
            let shown = exporter.map_err(Failure::from).and_then(|exporter| {
                show(&server, &directory, &data, exporter.as_ref(), output).map(|()| exporter)
            });
            attend(&mut stop, &server, mount, &directory, shown, output).await
        }),
        Err(failure) => Err(failure),
    };
    let closed = runtime.block_on(server.shutdown());
    // What a second signal cut short would be waited for.
    runtime.shutdown_background();
    done?;
    closed?;
    output.say(&format!("stopped; the data stays in {}", data.display()));
    Ok(())
}

/// The metrics of both.
fn page_of(server: &Server, mount: &Arc<Mount>) -> Page {
    let (server, mount) = (server::page_of(server), mount::page_of(mount));
    Arc::new(move || metrics::joined(&server(), &mount()))
}

fn make_volume(runtime: &Runtime, server: &Server, volume: &VolumeName) -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    runtime.block_on(server.ensure_volume(volume, uid, gid, 0o755)).map(drop)
}

/// Waits for the end, if what there is could be shown, and unmounts.
async fn attend(
    stop: &mut Stop,
    server: &Server,
    mount: Arc<Mount>,
    directory: &Path,
    shown: std::result::Result<Option<Exporter>, Failure>,
    output: &Output,
) -> Done {
    let ended = match &shown {
        Err(_) => Ok(()),
        Ok(_) => tokio::select! {
            () = stop.next() => Ok(()),
            () = mount::ended(&mount) => Ok(()),
            error = server.failed() => Err(Failure::from(error)),
        },
    };
    output.say("unmounting: content on its way is finished first");
    let unmounted = mount::end(mount, directory.to_owned(), stop).await;
    shown.map(drop).and(ended).and(unmounted)
}

fn show(
    server: &Server,
    directory: &Path,
    data: &Path,
    exporter: Option<&Exporter>,
    output: &Output,
) -> Done {
    let (at, data) = (directory.display().to_string(), data.display().to_string());
    let (cell, admin) = (server.local_addr().to_string(), server.admin_addr().to_string());
    let mut json = json!({
        "volume": VOLUME,
        "mountpoint": at,
        "data": data,
        "cell": cell,
        "admin": admin,
        "pid": std::process::id(),
    });
    if let Some(exporter) = exporter {
        json["metrics"] = exporter.address().to_string().into();
    }
    systemd::ready(&format!("{VOLUME} is mounted at {at}"));
    let sitefs = program();
    output.result(&json, || {
        format!(
            "\n  {VOLUME} is mounted at {at}\n\n\
             Try, in another terminal:\n  \
               cp -a /etc/ssl {at}/ && diff -r /etc/ssl {at}/ssl\n  \
               git clone https://github.com/git/git-scm.com {at}/site\n  \
               {sitefs} volume snapshot create {VOLUME} first --admin {admin}\n  \
               {sitefs} status --admin {admin}\n  \
               {sitefs} --help\n\n\
             Everything is kept in {data}; kill this process as hard as you like and start it again.\n\
             Ctrl-C stops and unmounts."
        )
    })
}

/// What to type to run this program again: its name if a shell finds it by that.
fn program() -> String {
    let name = "sitefs";
    let Ok(own) = env::current_exe() else { return name.to_owned() };
    let is_found = env::var_os("PATH").is_some_and(|path| {
        let mut found = env::split_paths(&path).map(|dir| dir.join(name)).filter(|program| program.is_file());
        found.next().is_some_and(|first| first.canonicalize().is_ok_and(|first| first == own))
    });
    if is_found { name.to_owned() } else { own.display().to_string() }
}

fn default_data() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| Some(set("HOME")?.join(".local/share")))
        .map(|base| base.join("sitefs-demo"))
        .ok_or_else(|| Error::invalid("HOME is not set: say with --data where everything is to be kept"))
}

/// Makes the data directory or takes it over, and keeps others out of it while the file is open.
fn own(data: &Path) -> std::result::Result<File, Failure> {
    let shown = data.display();
    make_private_dir(data).or_else(|error| match error.named_errno() {
        Some(errno) if places::is_no_place(errno) => Err(error).hint(places::CHOOSE_A_DISK),
        _ => Err(error.into()),
    })?;
    let mark = data.join(MARK);
    let foreign = || -> std::io::Result<bool> { Ok(!mark.exists() && fs::read_dir(data)?.next().is_some()) };
    if foreign().map_err(|error| Error::io(format!("reading the data directory {shown}"), error))? {
        return Err(Error::invalid(format!("{shown} has other files in it")))
            .hint("choose an empty directory, or one that a demo made, with --data");
    }
    let lock = File::options()
        .create(true)
        .append(true)
        .open(&mark)
        .map_err(|error| Error::io(format!("writing to the data directory {shown}"), error))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => Failure::new(
            Error::unavailable(format!("another demo is running on {shown}")),
            "stop it, or choose another directory with --data",
        ),
        error => Error::io(format!("locking {}", mark.display()), error.into()).into(),
    })?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_taken_over_once_and_only_if_it_is_ours() {
        let base = env::temp_dir().join(format!("sitefs-demo-test-{}", std::process::id()));
        let (ours, other) = (base.join("ours"), base.join("other"));
        let first = own(&ours).unwrap();
        assert!(own(&ours).is_err(), "two demos on one directory");
        drop(first);
        assert!(own(&ours).is_ok());
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("precious"), "x").unwrap();
        assert!(own(&other).is_err());
        fs::remove_dir_all(&base).unwrap();
    }
}
