//! The options of `-o`, as people know them from mount(8).

use crate::failure::{Failure, Hint};
use sitefs_base::{ByteSize, Error};
use sitefs_client::{Atime, KernelFlags, Owner};
use std::{net::SocketAddr, path::PathBuf, str::FromStr};

/// What `--help` says about them.
pub(crate) const HELP: &str = "Options as in fstab, separated by commas: ro, rw, noexec, exec, suid, nosuid \
(default), dev, nodev (default), noatime, relatime, strictatime, nodiratime, uid=NUMBER, gid=NUMBER (all files \
belong to that user or group), allow_other, cache=DIR, cache_size=SIZE, journal=DIR, journal_size=SIZE, metrics=HOST:PORT, \
passthrough, nopassthrough, insecure. _netdev, nofail, x-… and what mount(8) handles itself are ignored; anything else is refused.";

/// Options that say something to mount(8), systemd or other file systems, and nothing to this one:
/// the kernel always checks permissions, and nothing is held back to be written later.
const FOR_OTHERS: &[&str] = &[
    "defaults",
    "async",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "_netdev",
    "nofail",
    "default_permissions",
    "nomand",
    "atime",
    "diratime",
    "norelatime",
    "nostrictatime",
    "nolazytime",
    "loud",
    "silent",
];

/// What becomes of options that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unknown {
    /// Refused.
    Refuse,
    /// Left out, as `mount -s` wants it.
    Tolerate,
}

/// The options of a mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Options {
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
    pub(crate) insecure: bool,
    pub(crate) passthrough: bool,
    pub(crate) owner: Owner,
    pub(crate) flags: KernelFlags,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) cache_size: Option<ByteSize>,
    pub(crate) journal: Option<PathBuf>,
    pub(crate) journal_size: Option<ByteSize>,
    pub(crate) metrics: Option<SocketAddr>,
}

impl Options {
    /// Reads what was given to `-o`; of two that contradict each other the later one counts.
    pub(crate) fn parse<S: AsRef<str>>(given: &[S], unknown: Unknown) -> Result<Self, Failure> {
        let mut options = Self::default();
        let each = given.iter().flat_map(|some| some.as_ref().split(','));
        for option in each.map(str::trim).filter(|option| !option.is_empty()) {
            let known = match option.split_once('=') {
                None => options.set_flag(option),
                Some((name, value)) => options.set_value(name, value)?,
            };
            if !known && unknown == Unknown::Refuse {
                return Err(refused(option));
            }
        }
        Ok(options)
    }

    fn set_flag(&mut self, name: &str) -> bool {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "suid" => self.flags.suid = true,
            "nosuid" => self.flags.suid = false,
            "dev" => self.flags.dev = true,
            "nodev" => self.flags.dev = false,
            "exec" => self.flags.noexec = false,
            "noexec" => self.flags.noexec = true,
            "noatime" => self.flags.atime = Atime::Never,
            "relatime" => self.flags.atime = Atime::Relative,
            "strictatime" => self.flags.atime = Atime::Strict,
            "nodiratime" => self.flags.nodiratime = true,
            "allow_other" => self.allow_other = true,
            "insecure" => self.insecure = true,
            "nopassthrough" => self.passthrough = false,
            "passthrough" => self.passthrough = true,
            _ => return FOR_OTHERS.contains(&name) || is_comment(name),
        }
        true
    }

    fn set_value(&mut self, name: &str, value: &str) -> Result<bool, Failure> {
        match name {
            "uid" => self.owner.uid = Some(number(name, value)?),
            "gid" => self.owner.gid = Some(number(name, value)?),
            "cache" => self.cache = Some(PathBuf::from(value)),
            "cache_size" => self.cache_size = Some(read(name, value, "for example 10GiB")?),
            "journal" => self.journal = Some(PathBuf::from(value)),
            "journal_size" => self.journal_size = Some(read(name, value, "for example 1GiB")?),
            "metrics" => self.metrics = Some(read(name, value, "for example 127.0.0.1:9470")?),
            // mount(8) notes who has mounted it.
            "user" => {}
            _ => return Ok(is_comment(name)),
        }
        Ok(true)
    }
}

/// Options for whoever reads fstab.
fn is_comment(name: &str) -> bool {
    name == "comment" || name.starts_with("x-") || name.starts_with("X-")
}

fn refused(option: &str) -> Failure {
    let name = option.split('=').next().unwrap_or(option);
    let hint = if name == "remount" {
        "unmount it and mount it again with the new options"
    } else {
        "`sitefs mount --help` lists the options; mount.sitefs -s leaves out what it does not know"
    };
    Failure::new(Error::invalid(format!("the mount option {option:?} is not known")), hint)
}

fn number(name: &str, value: &str) -> Result<u32, Failure> {
    read(name, value, "give the number, not the name")
}

fn read<T: FromStr>(name: &str, value: &str, hint: &str) -> Result<T, Failure> {
    value
        .parse()
        .map_err(|_| Error::invalid(format!("the mount option {name}={value} makes no sense")))
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&[text], Unknown::Refuse).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn what_people_write_in_fstab_is_understood() {
        let options = parse(
            "rw,noatime,nodev,suid,noexec,uid=33,gid=33,allow_other,_netdev,nofail,x-systemd.automount,\
             x-systemd.requires=a.service,cache=/var/cache/a b,cache_size=2GiB,journal=/var/j,\
             journal_size=0,metrics=127.0.0.1:9470,comment=x,passthrough",
        )
        .unwrap();
        let flags = KernelFlags { suid: true, noexec: true, atime: Atime::Never, ..KernelFlags::default() };
        let expected = Options {
            allow_other: true,
            passthrough: true,
            owner: Owner { uid: Some(33), gid: Some(33) },
            flags,
            cache: Some("/var/cache/a b".into()),
            cache_size: Some(ByteSize::new(2 << 30)),
            journal: Some("/var/j".into()),
            journal_size: Some(ByteSize::new(0)),
            metrics: Some(([127, 0, 0, 1], 9470).into()),
            ..Options::default()
        };
        assert_eq!(options, expected);
        assert_eq!(parse("").unwrap(), Options::default());
        assert_eq!(parse("defaults,,auto").unwrap(), Options::default());
    }

    #[test]
    fn the_later_of_two_counts() {
        assert!(!parse("ro,rw").unwrap().read_only);
        assert!(parse("rw,ro").unwrap().read_only);
        assert!(!parse("suid,dev,noexec,nosuid,nodev,exec").unwrap().flags.suid);
    }

    #[test]
    fn what_is_unknown_or_makes_no_sense_is_refused_by_name() {
        for bad in ["frobnicate", "sync", "hard", "cache", "ro=1", "uid", "intr", "xfs", "size=3"] {
            let refused = parse(&format!("ro,{bad},noatime")).unwrap_err();
            assert!(refused.contains(&format!("\\\"{bad}\\\"")), "{bad}: {refused}");
        }
        for bad in ["uid=www-data", "gid=-1", "cache_size=much", "metrics=here"] {
            assert!(parse(bad).unwrap_err().contains("makes no sense"), "{bad}");
        }
        assert!(parse("remount,ro").unwrap_err().contains("mount it again"));
        let tolerated = Options::parse(&["ro,frobnicate,size=3"], Unknown::Tolerate);
        assert!(tolerated.is_ok_and(|options| options.read_only));
    }
}
