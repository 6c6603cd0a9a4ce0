//! `sitefs demo` under test.

use crate::{Finished, MountPoint, Running, scratch};
use std::path::{Path, PathBuf};

/// A cell of one node and its mount in one process, on a temporary directory.
#[derive(Debug)]
pub struct Demo {
    // Dropped in this order: the process, the mount, the files.
    process: Option<Running>,
    mount: MountPoint,
    data: PathBuf,
    extra: Vec<String>,
    env: Vec<(String, Option<String>)>,
    /// The test has damaged the data on purpose.
    damaged: bool,
    _dir: tempfile::TempDir,
}

impl Demo {
    /// Starts one.
    pub fn start() -> Self {
        Self::with(&[], &[])
    }

    /// Starts one with more arguments and variables.
    pub fn with(extra: &[&str], env: &[(&str, &str)]) -> Self {
        Self::try_with(extra, env).unwrap_or_else(|failed| panic!("the demo does not start: {failed:#?}"))
    }

    /// Starts one, or gives what it said when it ended.
    pub fn try_with(extra: &[&str], env: &[(&str, &str)]) -> Result<Self, Finished> {
        let (dir, path) = scratch();
        Self::in_dir(dir, path.join("data"), path.join("mount"), extra, env)
    }

    /// Starts one with its data elsewhere.
    pub fn with_data(data: &Path) -> Self {
        let (dir, path) = scratch();
        Self::in_dir(dir, data.to_owned(), path.join("mount"), &[], &[])
            .unwrap_or_else(|failed| panic!("the demo does not start: {failed:#?}"))
    }

    fn in_dir(
        dir: tempfile::TempDir,
        data: PathBuf,
        mount: PathBuf,
        extra: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self, Finished> {
        let mut demo = Self {
            process: None,
            mount: MountPoint::create(mount),
            data,
            extra: extra.iter().map(|&text| text.to_owned()).collect(),
            env: env.iter().map(|&(name, value)| (name.to_owned(), Some(value.to_owned()))).collect(),
            damaged: false,
            _dir: dir,
        };
        demo.process = Some(demo.launch()?);
        Ok(demo)
    }

    fn launch(&self) -> Result<Running, Finished> {
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec!["demo".to_owned(), text(self.root()), "--data".to_owned(), text(&self.data)];
        arguments.extend(self.extra.iter().cloned());
        Running::start(&arguments, &self.env, &self.log())
    }

    fn log(&self) -> PathBuf {
        self.root().with_file_name("log")
    }

    /// Where the volume is mounted.
    pub fn root(&self) -> &Path {
        self.mount.path()
    }

    /// A path in the volume.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Where the demo keeps everything.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The running process.
    pub fn process(&self) -> &Running {
        self.process.as_ref().expect("the demo runs")
    }

    /// Kills it as hard as possible; the mount is dead after it.
    pub fn kill9(&mut self) {
        self.process.take().expect("the demo runs").kill9();
    }

    /// Ends it with SIGTERM; the exit code.
    pub fn stop(&mut self) -> i32 {
        self.process.take().expect("the demo runs").stop()
    }

    /// The test damages the data: fsck after it would find that.
    pub fn is_damaged_on_purpose(&mut self) {
        self.damaged = true;
    }

    /// Starts it again at the same place.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the demo runs already");
        let started = self.launch();
        self.process = Some(started.unwrap_or_else(|failed| panic!("no second start: {failed:#?}")));
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // A killed process may hold its lock for a moment longer.
        drop(self.process.take());
        if !self.damaged {
            crate::fsck::nothing_is_wrong(&self.data);
        }
    }
}
