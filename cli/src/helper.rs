//! The binary under the names `mount.sitefs` and `umount.sitefs`: as mount(8) and umount(8) call their
//! helpers, for fstab and systemd.
//!
//! `mount.sitefs SOURCE TARGET [-sfnv] [-o OPTIONS]` starts `sitefs mount` in the background and returns when
//! the mount is up, or with what that said. `umount.sitefs TARGET [-flnrv]` drains and unmounts.

use crate::{
    failure::{Failure, Hint},
    options::{Options, Unknown},
    places,
    umount::How,
};
use sitefs_base::{Error, Kind, Result, VolumeView};
use sitefs_client::DRAIN_MAX;
use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Write},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

/// The exit codes of mount(8).
const USAGE: u8 = 1;
const SYSTEM: u8 = 2;
const BUG: u8 = 4;
const FAILED: u8 = 32;

/// What the binary was called as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Helper {
    Mount,
    Umount,
}

impl Helper {
    /// By the name of the program; mount(8) looks for `mount.fuse.sitefs` too, if told type `fuse.sitefs`.
    pub(crate) fn called_as(program: &OsStr) -> Option<Self> {
        match Path::new(program).file_name()?.to_str()? {
            "mount.sitefs" | "mount.fuse.sitefs" => Some(Self::Mount),
            "umount.sitefs" | "umount.fuse.sitefs" => Some(Self::Umount),
            _ => None,
        }
    }

    /// Does what mount(8) or umount(8) asked for.
    pub(crate) fn run(self, arguments: impl Iterator<Item = OsString>) -> ExitCode {
        let done = Call::parse(arguments).and_then(|call| match self {
            Self::Mount => mount(&call),
            Self::Umount => umount(&call),
        });
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Ended { code, failure }) => {
                if let Some(failure) = failure {
                    // Nobody is left to tell when stderr is closed.
                    let _ = writeln!(std::io::stderr(), "{}", failure.line());
                }
                ExitCode::from(code)
            }
        }
    }
}

/// The end of a helper that could not do its work.
#[derive(Debug)]
struct Ended {
    code: u8,
    /// What is still to be said.
    failure: Option<Failure>,
}

fn usage(failure: impl Into<Failure>) -> Ended {
    Ended { code: USAGE, failure: Some(failure.into()) }
}

fn failed(failure: impl Into<Failure>) -> Ended {
    let failure = failure.into();
    Ended { code: code_of(failure.kind()), failure: Some(failure) }
}

fn code_of(kind: Kind) -> u8 {
    match kind {
        Kind::Denied => USAGE,
        Kind::Internal => BUG,
        _ => FAILED,
    }
}

/// The same for the exit code of `sitefs mount`.
fn code_from(code: Option<i32>) -> u8 {
    match code {
        Some(2 | 77) => USAGE,
        Some(70) => BUG,
        _ => FAILED,
    }
}

/// What mount(8) hands over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    places: Vec<OsString>,
    options: Vec<String>,
    sloppy: bool,
    fake: bool,
    verbose: bool,
    force: bool,
}

impl Call {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> std::result::Result<Self, Ended> {
        let mut call = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                [b'-', letters @ ..] if !letters.is_empty() => call.flags(letters, &mut arguments)?,
                _ => call.places.push(argument),
            }
        }
        Ok(call)
    }

    /// One word of flags; of those with a value it is the rest of the word, or the next.
    fn flags(
        &mut self,
        letters: &[u8],
        arguments: &mut impl Iterator<Item = OsString>,
    ) -> std::result::Result<(), Ended> {
        for (at, letter) in letters.iter().enumerate() {
            match letter {
                b's' => self.sloppy = true,
                b'f' => (self.fake, self.force) = (true, true),
                b'v' => self.verbose = true,
                b'l' => self.force = true,
                b'w' => self.options.push("rw".to_owned()),
                // umount -r would mount it for reading where it cannot be unmounted: nothing to do for us.
                b'n' | b'r' => {}
                b'o' | b't' | b'N' => {
                    let rest = &letters[at + 1..];
                    let value = if rest.is_empty() {
                        arguments
                            .next()
                            .ok_or_else(|| usage(Error::invalid("a value is missing at the end")))?
                    } else {
                        OsStr::from_bytes(rest).to_owned()
                    };
                    if *letter == b'o' {
                        let text = value.into_string();
                        self.options.push(text.map_err(|_| usage(Error::invalid("options are UTF-8")))?);
                    }
                    return Ok(());
                }
                _ => {
                    let word = String::from_utf8_lossy(letters);
                    return Err(usage(Failure::new(
                        Error::invalid(format!("-{word} is not known")),
                        "mount.sitefs HOST:PORT:SITE/ENVIRONMENT DIRECTORY [-sfnv] [-o OPTIONS]",
                    )));
                }
            }
        }
        Ok(())
    }
}

/// `HOST:PORT:SITE/ENVIRONMENT`, where a moment of the past may follow: times have colons too.
fn split_source(source: &str) -> Result<(String, VolumeView)> {
    let wrong = || {
        Error::invalid(format!(
            "{source:?} is not a source: write HOST:PORT:SITE/ENVIRONMENT, for example 127.0.0.1:7440:acme/live"
        ))
    };
    let slash = source.find('/').ok_or_else(wrong)?;
    let (cell, _) = source[..slash].rsplit_once(':').ok_or_else(wrong)?;
    Ok((cell.to_owned(), source[cell.len() + 1..].parse()?))
}

fn mount(call: &Call) -> std::result::Result<(), Ended> {
    let [source, target] = call.places.as_slice() else {
        return Err(usage(Error::invalid("mount.sitefs takes a source and a directory")));
    };
    let (cell, view) = split_source(&source.to_string_lossy()).map_err(usage)?;
    let unknown = if call.sloppy { Unknown::Tolerate } else { Unknown::Refuse };
    let options = Options::parse(&call.options, unknown).map_err(usage)?;
    let no_cache = || Error::invalid("there is no cache directory");
    let cache = options.cache.ok_or_else(no_cache).hint("add the option cache=DIR").map_err(usage)?;
    let (target, cache) = (absolute(Path::new(target))?, absolute(&cache)?);
    if call.fake || is_there(&target, &view)? {
        return Ok(());
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sitefs").args(["mount", &view.to_string()]).arg(&target).args(["--cell", &cell]);
    command.arg("--cache").arg(&cache).args(["--detached", "--json", "-o", &call.options.join(",")]);
    if let Some(journal) = &options.journal {
        command.arg("--journal").arg(absolute(journal)?);
    }
    if call.sloppy {
        command.arg("--sloppy");
    }
    // So paths are absolute by now. Nothing keeps a directory of the caller busy, or waits for the end of its output.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = command.spawn().map_err(|error| Ended {
        code: SYSTEM,
        failure: Some(Error::io("starting the mount in the background", error).into()),
    })?;
    wait_until_ready(spawned, call.verbose)
}

fn absolute(path: &Path) -> std::result::Result<PathBuf, Ended> {
    places::absolute(path).map_err(failed)
}

/// Whether that volume is mounted there already: `mount -a` may be called as often as one likes.
fn is_there(target: &Path, view: &VolumeView) -> std::result::Result<bool, Ended> {
    let mounts = places::mounts().map_err(failed)?;
    let Some(mount) = mounts.iter().rev().find(|mount| mount.at == target) else { return Ok(false) };
    let same = mount.is_ours() && mount.source.ends_with(format!(":{view}").as_bytes());
    Ok(same && !crate::mountpoint::is_dead_mount(target).map_err(failed)?)
}

/// Passes on what the mount says until it is up or has ended.
fn wait_until_ready(mut child: Child, verbose: bool) -> std::result::Result<(), Ended> {
    let errors = child.stderr.take();
    let passed_on = std::thread::spawn(move || {
        if let Some(mut errors) = errors {
            // Nobody is left to tell when stderr is closed.
            let _ = std::io::copy(&mut errors, &mut std::io::stderr());
        }
    });
    let mut line = String::new();
    if let Some(ready) = child.stdout.take() {
        // An error reads as the end.
        let _ = BufReader::new(ready).read_line(&mut line);
    }
    if !line.is_empty() {
        if verbose {
            let _ = writeln!(std::io::stdout(), "mount.sitefs: {}", line.trim_end());
        }
        return Ok(());
    }
    let status = child.wait();
    let _ = passed_on.join();
    let code = code_from(status.ok().and_then(|status| status.code()));
    Err(Ended { code, failure: None })
}

fn umount(call: &Call) -> std::result::Result<(), Ended> {
    let [target] = call.places.as_slice() else {
        return Err(usage(Error::invalid("umount.sitefs takes a directory")));
    };
    let how = How {
        directory: Path::new(target),
        drain: (!call.force).then_some(DRAIN_MAX),
        force: call.force,
        cache: None,
    };
    how.take_off().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Call {
        Call::parse(words.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn it_is_known_by_its_name() {
        assert_eq!(Helper::called_as(OsStr::new("/sbin/mount.sitefs")), Some(Helper::Mount));
        assert_eq!(Helper::called_as(OsStr::new("umount.fuse.sitefs")), Some(Helper::Umount));
        assert_eq!(Helper::called_as(OsStr::new("/usr/bin/sitefs")), None);
    }

    #[test]
    fn the_calls_of_mount_are_understood() {
        let parsed = call(&["h:1:a/b", "/srv", "-sn", "-o", "ro,cache=/c", "-t", "fuse.sitefs", "-v"]);
        let expected = Call {
            places: vec!["h:1:a/b".into(), "/srv".into()],
            options: vec!["ro,cache=/c".to_owned()],
            sloppy: true,
            verbose: true,
            ..Call::default()
        };
        assert_eq!(parsed, expected);
        assert_eq!(call(&["-fno", "ro", "-oexec", "x"]).options, ["ro", "exec"]);
        assert!(call(&["-l", "x"]).force && !call(&["-nr", "x"]).force);
        for bad in [&["-x"][..], &["-o"], &["a", "-t"]] {
            let ended = Call::parse(bad.iter().map(OsString::from)).unwrap_err();
            assert_eq!(ended.code, USAGE, "{bad:?}");
        }
    }

    #[test]
    fn sources_have_an_address_and_a_volume() {
        let split = |text: &str| split_source(text).map(|(cell, view)| (cell, view.to_string()));
        assert_eq!(split("127.0.0.1:7440:acme/live").unwrap(), ("127.0.0.1:7440".into(), "acme/live".into()));
        assert_eq!(split("[::1]:7440:acme/live@x").unwrap(), ("[::1]:7440".into(), "acme/live@x".into()));
        let (cell, view) = split("h:1:acme/live@2026-11-20T12:00:00Z").unwrap();
        assert_eq!((cell.as_str(), view.as_str()), ("h:1", "acme/live@2026-11-20T12:00:00Z"));
        for bad in ["acme/live", "h:1:acme", "h:1:/x", "", ":"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_end_with_the_codes_of_mount() {
        assert_eq!((code_from(Some(2)), code_from(Some(69)), code_from(None)), (1, 32, 32));
        assert_eq!(failed(Error::internal("x")).code, BUG);
    }
}
