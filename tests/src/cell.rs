//! `sitefs server` and `sitefs mount` as processes of their own.

use crate::{Finished, MountPoint, Running, scratch, sitefs};
use std::{
    cell::Cell as Counter,
    path::{Path, PathBuf},
};

type Env = Vec<(String, Option<String>)>;

/// A cell of one node.
#[derive(Debug)]
pub struct Cell {
    process: Option<Running>,
    listen: String,
    admin: String,
    backend: Vec<String>,
    env: Env,
    mounts: Counter<u32>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Cell {
    /// Starts one that keeps its blobs in a directory.
    pub fn start() -> Self {
        Self::with(&[], &[])
    }

    /// Starts one with more arguments and variables.
    pub fn with(backend: &[&str], env: &[(&str, &str)]) -> Self {
        let (dir, path) = scratch();
        let mut cell = Self {
            process: None,
            listen: "127.0.0.1:0".to_owned(),
            admin: "127.0.0.1:0".to_owned(),
            backend: backend.iter().map(|&text| text.to_owned()).collect(),
            env: env.iter().map(|&(name, value)| (name.to_owned(), Some(value.to_owned()))).collect(),
            mounts: Counter::new(0),
            path,
            _dir: dir,
        };
        cell.start_again();
        cell
    }

    /// Starts the server, after the first time at the same addresses.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let data = self.path.join("cell").display().to_string();
        let mut arguments: Vec<String> =
            ["server", &data, "--listen", &self.listen, "--admin-listen", &self.admin, "--insecure"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(self.backend.iter().cloned());
        let started = Running::start(&arguments, &self.env, &self.path.join("server.log"));
        let process = started.unwrap_or_else(|failed| panic!("the server does not start: {failed:#?}"));
        self.listen = process.said("listen");
        self.admin = process.said("admin");
        self.process = Some(process);
    }

    /// Kills the server as hard as possible.
    pub fn kill9(&mut self) {
        self.process.take().expect("the server runs").kill9();
    }

    /// Ends the server with SIGTERM; the exit code.
    pub fn stop(&mut self) -> i32 {
        self.process.take().expect("the server runs").stop()
    }

    /// Stops the server as if its machine had no time for it (SIGSTOP).
    pub fn freeze(&self) {
        self.process.as_ref().expect("the server runs").freeze();
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.process.as_ref().expect("the server runs").thaw();
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path.join("cell")
    }

    /// Where mounts connect.
    pub fn listen(&self) -> &str {
        &self.listen
    }

    /// The running server.
    pub fn process(&self) -> &Running {
        self.process.as_ref().expect("the server runs")
    }

    /// Runs `sitefs ARGUMENTS --admin …`.
    pub fn admin(&self, arguments: &[&str]) -> Finished {
        sitefs(&[arguments, &["--admin", &self.admin]].concat())
    }

    /// Makes a volume; one that exists stays as it is.
    pub fn volume(&self, volume: &str) {
        let made = self.admin(&["volume", "create", volume]);
        assert!([0, 76].contains(&made.code), "{made:#?}");
    }

    /// Makes the volume if it is new, and mounts it.
    pub fn mount(&self, volume: &str) -> Mounted {
        self.mount_with(volume, &[])
    }

    /// The same through another address than the cell's own.
    pub fn mount_through(&self, address: &str, volume: &str) -> Mounted {
        self.mount_at(address, volume, &[])
    }

    /// Everything the server wrote to stderr.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("the server runs").log()
    }

    /// The same with more arguments, or of a moment of the past (`acme/live@NAME`). A mount never sees
    /// the keys of the object store.
    pub fn mount_with(&self, volume: &str, extra: &[&str]) -> Mounted {
        self.mount_at(&self.listen, volume, extra)
    }

    fn mount_at(&self, address: &str, volume: &str, extra: &[&str]) -> Mounted {
        self.volume(volume.split('@').next().unwrap_or(volume));
        let number = self.mounts.get();
        self.mounts.set(number + 1);
        let base = self.path.join(format!("mount-{number}"));
        let point = MountPoint::create(base.join("root"));
        let (root, cache) = (point.path().display().to_string(), base.join("cache").display().to_string());
        let mut arguments: Vec<String> =
            ["mount", volume, &root, "--cell", address, "--cache", &cache, "--insecure"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(extra.iter().map(|&text| text.to_owned()));
        let mut mounted = Mounted { process: None, point, base, arguments };
        mounted.start_again();
        mounted
    }
}

/// A mounted volume in a process of its own.
#[derive(Debug)]
pub struct Mounted {
    process: Option<Running>,
    point: MountPoint,
    base: PathBuf,
    arguments: Vec<String>,
}

impl Mounted {
    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        self.point.path()
    }

    /// A path in the volume.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Its cache directory.
    pub fn cache(&self) -> PathBuf {
        self.base.join("cache")
    }

    /// The running mount.
    pub fn process(&self) -> &Running {
        self.process.as_ref().expect("the mount runs")
    }

    /// Mounts again at the same place.
    pub fn start_again(&mut self) {
        self.start_again_with(&[]);
    }

    /// The same with variables.
    pub fn start_again_with(&mut self, env: &[(&str, &str)]) {
        let started = self.try_start(env);
        self.process = Some(started.unwrap_or_else(|failed| panic!("it does not mount: {failed:#?}")));
    }

    /// The same for one that ends before it is mounted; its exit code.
    pub fn ends_at_its_start(&mut self, env: &[(&str, &str)]) -> i32 {
        self.try_start(env).expect_err("it mounts").code
    }

    fn try_start(&self, env: &[(&str, &str)]) -> Result<Running, Finished> {
        assert!(self.process.is_none(), "the mount runs already");
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        let mut env: Env =
            env.iter().map(|&(name, value)| (name.to_owned(), Some(value.to_owned()))).collect();
        env.extend(keys.iter().map(|&name| (name.to_owned(), None)));
        Running::start(&self.arguments, &env, &self.base.join("log"))
    }

    /// Kills the mount as hard as possible.
    pub fn kill9(&mut self) {
        self.process.take().expect("the mount runs").kill9();
    }

    /// Stops the mount's process as if its machine had no time for it (SIGSTOP).
    pub fn freeze(&self) {
        self.process.as_ref().expect("the mount runs").freeze();
    }

    /// Lets a frozen mount go on.
    pub fn thaw(&self) {
        self.process.as_ref().expect("the mount runs").thaw();
    }

    /// Waits until the mount's process has ended by itself; the exit code.
    pub fn wait(&mut self) -> i32 {
        self.process.take().expect("the mount runs").wait()
    }

    /// Ends it with SIGTERM; the exit code.
    pub fn stop(&mut self) -> i32 {
        self.process.take().expect("the mount runs").stop()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the mount runs").pid()
    }

    /// Unmounts with `sitefs umount`; the exit code of the mount's process.
    pub fn umount(&mut self) -> i32 {
        sitefs(&["umount".as_ref(), self.root().as_os_str()]).ok();
        self.process.take().expect("the mount runs").wait()
    }
}
