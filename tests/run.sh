#!/usr/bin/env bash
# Sets up what the tests need, builds, and runs all of them. Ends with one line: "N passed, N failed".
# Usage: tests/run.sh [NAME..]   with names, only the test programs of those crates (compat, crash, ...)
set -uo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
missing() { echo "tests/run.sh: $1 is missing. $2" >&2; exit 1; }

command -v cargo >/dev/null || missing cargo "Install Rust with rustup; rust-toolchain.toml names the version."
command -v cc >/dev/null || missing cc "Install a C compiler (Debian: apt-get install gcc libc6-dev)."

logs=$(mktemp -d)
setup=''
trap '[ -z "$setup" ] || kill -- "-$setup" 2>/dev/null; rm -rf "$logs"' EXIT
failed_steps=0

# Mostly downloads: beside the build.
set_up_clients() {
    bash tiered-storage/tests/setup.sh
    bash tests/compat/setup.sh || echo "setup of the clients failed: their tests will say what they miss"
}
# In a process group of its own, so that all of it ends with this script.
set -m
set_up_clients >"$logs/setup" 2>&1 &
setup=$!
set +m

say "form: rustfmt and clippy"
cargo fmt --all --check || failed_steps=$((failed_steps + 1))
cargo clippy --workspace --all-targets --quiet -- --deny warnings || failed_steps=$((failed_steps + 1))

free_disk() { df -h --output=avail . | tail -1 | tr -d ' '; }

say "build (free on the disk: $(free_disk))"
cargo build --workspace --bins --examples --quiet || exit 1
export MERIDIAN_BIN="$PWD/target/debug/meridian"

say "clients: the S3 server and the real Kafka clients that the tests use"
wait "$setup"
setup=''
cat "$logs/setup"

say "tests (free on the disk: $(free_disk))"
packages=(--workspace)
if [ $# -gt 0 ]; then
    packages=()
    for name in "$@"; do packages+=(--package "meridian-$name"); done
fi
cargo test "${packages[@]}" --no-fail-fast 2>&1 | tee "$logs/tests"

# What failed is run once more, alone: tests of real processes on real time meet what no bound foresees on a shared machine
# (docs/decisions/0022-run-again.md). What a checker of histories found is final.
failures() {
    awk '/^     Running |^   Doc-tests / { names = ""; listed = 0; found = 0 }
         /^failures:$/ { names = ""; listed = 1 }
         listed && /^    [A-Za-z0-9_:]+$/ { names = names " " $1 }
         /^test result:/ { listed = 0 }
         /[1-9][0-9]* (lost|duplicated|reordered|other findings)|BROKEN/ { found = 1 }
         /^error: test failed, to rerun pass/ { split($0, parts, "`"); sub(/^-p [^ ]+ /, "", parts[2]); if (names != "" && !found) print parts[2] "\t" names }' "$1"
}
count() { awk -v field="$2" '/^test result:/ { n += $field } END { print n + 0 }' "$1"; }

passed=$(count "$logs/tests" 4)
failed=$(count "$logs/tests" 6)
# A test program that did not build, or died: cargo names it, and it has no result.
broken=$(($(grep -cE '^error(\[E[0-9]+\])?: (could not compile|test failed, to rerun)' "$logs/tests") \
    - $(grep -c '^test result: FAILED' "$logs/tests")))

: >"$logs/again"
# shellcheck disable=SC2086  # the words of a line are arguments
while IFS=$'\t' read -r target names; do
    say "once more, alone:$names"
    # Of the whole workspace, so that nothing is built anew.
    cargo test --workspace $target -- --exact $names </dev/null 2>&1 | tee -a "$logs/again"
done < <(failures "$logs/tests")
again=$(count "$logs/again" 4)
if [ "$again" -gt 0 ]; then
    say "passed only when run again: $(awk '/^test .* \.\.\. ok$/ { printf "%s ", $2 }' "$logs/again")"
fi
passed=$((passed + again))
failed=$((failed - again + broken + failed_steps))
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
