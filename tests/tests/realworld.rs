//! Real trees and real programs on a mount.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Demo, can_mount, differences, run, skipped};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const MINUTES: Duration = Duration::from_secs(600);

/// Runs a line of shell; `$1`, `$2` … are the paths.
fn shell(line: &str, paths: &[&Path]) -> sitefs_tests::Finished {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", line, "bash"]).args(paths);
    run(command, MINUTES)
}

/// The tree of Debian's WordPress package; `scripts/test` fetches it.
fn wordpress() -> Option<PathBuf> {
    let tree = env::var_os("SITEFS_TEST_WORDPRESS").map(PathBuf::from);
    let tree = tree
        .or_else(|| Some(PathBuf::from("/usr/share/wordpress")))
        .filter(|tree| tree.join("index.php").exists());
    if tree.is_none() {
        skipped("no WordPress tree: set SITEFS_TEST_WORDPRESS");
    }
    tree
}

#[test]
fn wordpress_copied_in_three_ways_is_the_same_tree() {
    if !can_mount() {
        return;
    }
    let Some(tree) = wordpress() else { return };
    let mut demo = Demo::start();
    shell(r#"cp -a "$1" "$2""#, &[&tree, &demo.path("cp")]).ok();
    shell(r#"mkdir "$2"; tar -C "$1" -cf - . | tar -C "$2" -xpf -"#, &[&tree, &demo.path("tar")]).ok();
    shell(r#"rsync -a "$1/" "$2/""#, &[&tree, &demo.path("rsync")]).ok();
    let check = |demo: &Demo| {
        for way in ["cp", "tar", "rsync"] {
            let found = differences(&tree, &demo.path(way));
            assert!(found.is_empty(), "{way}: {found:#?}");
        }
    };
    check(&demo);
    let again = shell(r#"rsync -ain --checksum "$1/" "$2/""#, &[&tree, &demo.path("cp")]).ok();
    assert_eq!(again.stdout.trim(), "", "rsync would change something");
    demo.kill9();
    demo.start_again();
    check(&demo);
}

#[test]
fn php_runs_wordpress_until_it_misses_the_database() {
    if !can_mount() {
        return;
    }
    let Some(tree) = wordpress() else { return };
    if Command::new("php").arg("-v").stdout(Stdio::null()).status().is_err() {
        skipped("php is missing (Debian packages php-cli and php-mysql)");
        return;
    }
    let demo = Demo::start();
    let site = demo.path("site");
    // Debian links some files out of the tree; the site gets them as they are.
    shell(r#"cp -rL "$1" "$2" || true; ls "$2/index.php""#, &[&tree, &site]).ok();
    let config = "<?php define('DB_NAME','x'); define('DB_USER','x'); define('DB_PASSWORD','x');\n\
        define('DB_HOST','127.0.0.1:1'); $table_prefix = 'wp_';\n\
        if (!defined('ABSPATH')) define('ABSPATH', __DIR__ . '/'); require_once ABSPATH . 'wp-settings.php';\n";
    fs::write(site.join("wp-config.php"), config).unwrap();
    let ran =
        shell(r#"cd "$1"; HTTP_HOST=localhost php -d display_errors=1 index.php 2>&1 || true"#, &[&site]);
    assert!(ran.stdout.contains("database"), "{ran:#?}");
}

#[test]
fn a_cloned_repository_is_sound() {
    if !can_mount() {
        return;
    }
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if !ours.join(".git").exists() {
        skipped("the sources are not a git clone");
        return;
    }
    let mut demo = Demo::start();
    let clone = demo.path("clone");
    let git = "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'; ";
    shell(&format!(r#"{git} git clone -q --no-local "file://$1" "$2""#), &[ours, &clone]).ok();
    let check = format!(
        r#"{git} cd "$1"; git fsck --full --strict; test -z "$(git status --porcelain)"; git log --oneline | wc -l"#
    );
    let before = shell(&check, &[&clone]).ok().stdout;
    demo.kill9();
    demo.start_again();
    assert_eq!(shell(&check, &[&clone]).ok().stdout, before);
}

const SQLITE: &str = r"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('pragma synchronous=full')
db.execute('create table if not exists t(n integer primary key, x text)')
n = db.execute('select coalesce(max(n), 0) from t').fetchone()[0]
while True:
    n += 1
    db.execute('insert into t values(?, ?)', (n, 'x' * (n % 3000)))
    print(n, flush=True)
";

const SQLITE_CHECK: &str = r"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute('pragma integrity_check').fetchall() == [('ok',)]
print(db.execute('select coalesce(max(n), 0) from t').fetchone()[0])
";

#[test]
fn sqlite_keeps_every_acknowledged_row_over_kills() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let database = demo.path("wp.sqlite");
    for round in 0..5 {
        let (acknowledged, mut writer) = write_rows(&database, 30 + 20 * round);
        demo.kill9();
        let _ = writer.kill();
        let _ = writer.wait();
        demo.start_again();
        let mut check = Command::new("python3");
        check.args(["-c", SQLITE_CHECK]).arg(&database);
        let found: u64 = run(check, MINUTES).ok().stdout.trim().parse().unwrap();
        assert!(found >= acknowledged, "round {round}: {acknowledged} rows acknowledged, {found} found");
    }
}

/// Lets SQLite write until `count` more rows are acknowledged; the last one.
fn write_rows(database: &Path, count: usize) -> (u64, std::process::Child) {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new("python3");
    command.args(["-c", SQLITE]).arg(database).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut writer = command.spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let last = lines.take(count).map_while(Result::ok).last().expect("SQLite writes nothing");
    (last.parse().unwrap(), writer)
}
