#!/bin/bash
# POSIX system-call conformance: the pjdfstest of crates.io (398 cases in 0.2.2).
#   env: PJDFSTEST=path to the binary (default: the one setup.sh installs, else PATH), PJD_CONF=config (default: pjdfstest.toml here),
#        PJD_SECOND=dir on another file system (for EXDEV), PJD_ONLY=name prefixes to run, PJD_MIN=least number of cases that must pass
#        or fail (default 330 without PJD_ONLY): a run that skips more than that has tested nothing
# Needs: root, users "nobody" and "tests", the mount visible to other users (allow_other).
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/lib.sh"
need_mount "${1:-}"
CACHED=${SITEFS_SUITES:-$HOME/.cache/sitefs-suites}/bin/pjdfstest
BIN=${PJDFSTEST:-$([ -x "$CACHED" ] && echo "$CACHED" || echo pjdfstest)}; need_bin "$BIN" "(run setup.sh)"
id tests >/dev/null 2>&1 || give_up "user tests is missing (run setup.sh)"
SEC=${PJD_SECOND:-/dev/shm/pjd-second.$$}; mkdir -p "$SEC"
[ "$(stat -c %d "$SEC")" != "$MNTDEV" ] || give_up "PJD_SECOND must be on another file system"
chmod 755 "$W"
timeout -k 5 "${T_LIMIT:-900}" "$BIN" -c "${PJD_CONF:-$HERE/pjdfstest.toml}" -s "$SEC" -p "$W" ${PJD_ONLY:-} >> "$LOG" 2>&1
rc=$?
# one line per case: "name   ok|FAILED|skipped"
PASS=$(grep -cE '^[a-z_0-9:]+ +ok$' "$LOG"); FAIL=$(grep -cE '^[a-z_0-9:]+ +FAILED$' "$LOG"); SKIP=$(grep -cE '^[a-z_0-9:]+ +skipped' "$LOG")
grep -E '^[a-z_0-9:]+ +FAILED$' "$LOG" | awk '{print "FAIL " $1}'
if ! grep -q '^Summary:' "$LOG"; then bad finished "exit $rc: mount died or hung; log $LOG"
elif [ $rc -ne 0 ] && [ "$FAIL" -eq 0 ]; then bad exit_status "exit $rc although no case failed; log $LOG"; fi
[ $((PASS+FAIL)) -ge "${PJD_MIN:-$([ -n "${PJD_ONLY:-}" ] && echo 1 || echo 330)}" ] || bad coverage "only $((PASS+FAIL)) cases ran, $SKIP skipped; log $LOG"
[ -n "${PJD_SECOND:-}" ] || rm -rf "$SEC"
finish
