//! `sitefs server`: one metadata node.

use crate::{
    Done,
    failure::{Failure, Hint},
    metrics::{self, Page},
    open_files,
    output::Output,
    places,
    progress::Progress,
    signals::Stop,
    systemd,
};
use serde_json::json;
use sitefs_base::{Error, Kind, SystemClock};
use sitefs_metadata::server::{BackendConfig, GcConfig, Server, ServerConfig};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// How long an orderly end may take.
const STOP_SECONDS: u64 = 60;

/// Runs a metadata server until it is told to stop (Ctrl-C, SIGTERM).
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where it keeps its log, its state and, without --bucket, the blobs; made if missing.
    data: PathBuf,
    /// Where mounts connect.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7440")]
    listen: SocketAddr,
    /// Where administration connects.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7441")]
    admin_listen: SocketAddr,
    /// The name of the cell; a data directory keeps the name it was made with.
    #[arg(long, value_name = "NAME", default_value = "main")]
    name: String,
    #[command(flatten)]
    backend: BackendArguments,
    #[command(flatten)]
    gc: GcArguments,
    /// Believes every caller without a certificate; on loopback addresses only.
    #[arg(long)]
    insecure: bool,
    /// Serves metrics for Prometheus at /metrics of this address, to everybody who can reach it.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<SocketAddr>,
}

/// Where blobs are kept.
#[derive(clap::Args)]
pub(crate) struct BackendArguments {
    /// The URL of an S3 service that is not AWS, for example http://127.0.0.1:9000.
    #[arg(long, value_name = "URL", requires = "bucket")]
    s3_endpoint: Option<String>,
    /// Keeps blobs in this S3 bucket, with the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// The region of the bucket.
    #[arg(long, env = "AWS_REGION", value_name = "NAME")]
    region: Option<String>,
}

impl BackendArguments {
    /// The same for the server.
    pub(crate) fn config(&self) -> BackendConfig {
        match &self.bucket {
            None => BackendConfig::Directory,
            Some(bucket) => BackendConfig::S3 {
                endpoint: self.s3_endpoint.clone(),
                bucket: bucket.clone(),
                region: self.region.clone(),
            },
        }
    }
}

/// How garbage is collected.
#[derive(clap::Args)]
pub(crate) struct GcArguments {
    /// How long a blob stays that nothing names any more, for example 48h, 30m or 10s.
    #[arg(long, value_name = "TIME", default_value = "48h", value_parser = duration)]
    gc_grace: Duration,
    /// How often garbage is collected.
    #[arg(long, value_name = "TIME", default_value = "6h", value_parser = duration)]
    gc_interval: Duration,
    /// How many rows of metadata garbage collection looks at in a second.
    #[arg(long, value_name = "ROWS", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    gc_rate: u64,
    /// How long an upload may take from its grant to its commit.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration, hide = true)]
    gc_uploads: Duration,
}

impl GcArguments {
    /// The same for the server.
    pub(crate) fn config(&self) -> GcConfig {
        let Self { gc_grace: grace, gc_interval: interval, gc_rate: rate, gc_uploads: uploads } = *self;
        GcConfig { grace, interval, uploads, rate }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok().filter(|number| *number > 0);
    let total = number.zip(seconds).and_then(|(number, seconds)| number.checked_mul(seconds));
    total
        .map(Duration::from_secs)
        .ok_or_else(|| "write a number and s, m, h or d, for example 48h".to_owned())
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    if !arguments.insecure {
        return Err(insecure_needed());
    }
    let config = ServerConfig {
        data_dir: arguments.data.clone(),
        listen: arguments.listen,
        admin_listen: arguments.admin_listen,
        cell: arguments.name.clone(),
        backend: arguments.backend.config(),
        insecure: arguments.insecure,
        gc: arguments.gc.config(),
    };
    let runtime = runtime()?;
    runtime.block_on(serve(config, arguments.metrics, output))
}

async fn serve(config: ServerConfig, exported: Option<SocketAddr>, output: &Output) -> Done {
    let mut stop = Stop::listen()?;
    let server = start(config).await?;
    let (listen, admin) = (server.local_addr().to_string(), server.admin_addr().to_string());
    let exporter = metrics::maybe(exported, page_of(&server)).await?;
    let mut json = json!({ "listen": listen, "admin": admin });
    if let Some(exporter) = &exporter {
        json["metrics"] = exporter.address().to_string().into();
    }
    let text = format!("serving mounts at {listen} and administration at {admin}");
    output.result(&json, || format!("{text}; Ctrl-C stops"))?;
    systemd::ready(&text);
    let ended = tokio::select! {
        () = stop.next() => Ok(()),
        error = server.failed() => Err(error),
    };
    systemd::stopping("ending streams, flushing", STOP_SECONDS);
    let closed = server.shutdown().await;
    Ok(ended.and(closed)?)
}

/// The metrics of a server.
pub(crate) fn page_of(server: &Server) -> Page {
    let metrics = server.metrics();
    Arc::new(move || metrics.page())
}

/// Starts a server and shows that this takes time.
pub(crate) async fn start(config: ServerConfig) -> Result<Server, Failure> {
    places::on_own_disk(&config.data_dir, "data directory")?;
    open_files::raise();
    let _progress = Progress::show("starting the cell");
    let with_bucket = matches!(config.backend, BackendConfig::S3 { .. });
    let data = config.data_dir.display().to_string();
    let started = Server::start(config, Arc::new(SystemClock)).await;
    let error = match started {
        Ok(server) => return Ok(server),
        Err(error) => error.while_doing(format_args!("starting the cell in {data}")),
    };
    let hint = match error.kind() {
        _ if error.named_errno().is_some_and(places::is_no_place) => places::CHOOSE_A_DISK,
        _ if !with_bucket => return Err(error.into()),
        Kind::Denied => {
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do with the bucket"
        }
        Kind::Unavailable => "does --s3-endpoint answer?",
        _ => return Err(error.into()),
    };
    Err(error).hint(hint)
}

/// The runtime of a server: its own, so that nothing else can hold it up.
pub(crate) fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("sitefs-server")
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the server's runtime", error))
}

/// What is said where `--insecure` is missing.
pub(crate) fn insecure_needed() -> Failure {
    Failure::new(
        Error::invalid("this version has no certificates yet, so the cell cannot tell who connects"),
        "add --insecure to trust every program on this machine; only loopback addresses are allowed then",
    )
}
