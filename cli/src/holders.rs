//! Which processes use a mount, found by the names in /proc: nothing in the mount is touched.

use std::{fs, path::Path};

/// As many as one line can hold.
const SHOWN_MAX: usize = 8;

/// Processes that have something below `mountpoint` open, mapped, or as their directory: `php-fpm (4711)`.
/// Those of other users are found by root only.
pub(crate) fn of(mountpoint: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    numbers.filter(|pid| *pid != own && holds(*pid, mountpoint)).take(SHOWN_MAX).map(named).collect()
}

fn named(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} ({pid})", name.trim_end())
}

fn holds(pid: u32, mountpoint: &Path) -> bool {
    let process = format!("/proc/{pid}");
    let leads_in = |link: &str| fs::read_link(link).is_ok_and(|path| path.starts_with(mountpoint));
    if ["cwd", "root", "exe"].iter().any(|link| leads_in(&format!("{process}/{link}"))) {
        return true;
    }
    let open = fs::read_dir(format!("{process}/fd")).into_iter().flatten().flatten();
    if open.map(|entry| entry.path()).any(|link| leads_in(&link.display().to_string())) {
        return true;
    }
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap_or_default();
    // The path is the sixth column.
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    mapped.into_iter().any(|path| path.starts_with(mountpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_program() {
        let program = std::env::current_exe().unwrap();
        assert!(holds(std::process::id(), program.parent().unwrap()));
        assert!(!holds(std::process::id(), Path::new("/no/such/mount")));
    }
}
