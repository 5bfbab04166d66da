#!/usr/bin/env bash
# Installs the Kafka clients that the compatibility tests run: into target/clients, nothing global but Debian packages.
#
# Idempotent: a client whose inputs have not changed is left alone. A client whose tool is missing on this machine is
# reported and left out; its tests then print a reason and skip. Usage: tests/compat/setup.sh [python|columns|java|go|kcat|strace ...]
set -u -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out="${CARGO_TARGET_DIR:-$root/target}/clients"
mkdir -p "$out"
log="$out/setup.log"
: >"$log"
failed=0

say() { printf 'setup: %s\n' "$*"; }

# fingerprint FILE... : one hash over the contents, so that a changed input installs again.
fingerprint() { cat "$@" "$here/setup.sh" | sha256sum | cut -d' ' -f1; }

# fresh NAME HASH: true when NAME was installed from these very inputs.
fresh() { [ -f "$out/$1.stamp" ] && [ "$(cat "$out/$1.stamp")" = "$2" ]; }

# skip NAME REASON: leaves the reason where the tests find it.
skip() {
    say "$1: left out: $2"
    rm -f "$out/$1.stamp"
    printf '%s\n' "$2" >"$out/$1.missing"
}

# run NAME COMMAND...: quiet while it works, the tail of its output when it does not.
run() {
    local name=$1
    shift
    if ! "$@" >>"$log" 2>&1; then
        say "$name: failed: $*"
        tail -n 25 "$log" | sed 's/^/    /'
        printf 'installing failed: %s (see %s)\n' "$*" "$log" >"$out/$name.missing"
        failed=1
        return 1
    fi
}

# retried COMMAND...: three times in all, because a download may fail for a reason of the moment.
retried() {
    "$@" && return 0
    sleep 5
    "$@" && return 0
    sleep 30
    "$@"
}

finish() {
    printf '%s' "$2" >"$out/$1.stamp"
    rm -f "$out/$1.missing"
    say "$1: installed ($3)"
}

# debian PACKAGE: installs a Debian package when we may.
debian() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" != 0 ]; then return 1; fi
    # Another installation may hold the lock for a while.
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q -o DPkg::Lock::Timeout=120 "$1")
    "${install[@]}" >>"$log" 2>&1 && return 0
    retried apt-get update -q >>"$log" 2>&1
    retried "${install[@]}" >>"$log" 2>&1
}

# make_venv NAME: an empty venv for Python packages, or why there can be none.
make_venv() {
    if ! command -v python3 >/dev/null; then
        skip "$1" "python3 is not installed"
        return 1
    fi
    rm -rf "$out/$1"
    if ! python3 -m venv "$out/$1" >>"$log" 2>&1; then
        skip "$1" "python3 cannot make a venv here (on Debian: apt-get install python3-venv)"
        return 1
    fi
}

setup_python() {
    local hash
    hash=$(fingerprint "$here/python/requirements.txt")
    if fresh python "$hash"; then
        say "python: up to date"
        return
    fi
    make_venv python || return 0
    say "python: installing confluent-kafka and kafka-python into a venv"
    run python retried "$out/python/bin/pip" install -q -r "$here/python/requirements.txt" || return
    finish python "$hash" "$("$out/python/bin/python" --version 2>&1)"
}

setup_columns() {
    local hash
    hash=$(fingerprint "$root/clients/python/requirements.txt")
    if fresh columns "$hash"; then
        say "columns: up to date"
        return
    fi
    make_venv columns || return 0
    say "columns: installing pyarrow, DuckDB and Polars into a venv"
    # Only what is there as a wheel: building them takes an hour.
    if ! retried "$out/columns/bin/pip" install -q --only-binary :all: -r "$root/clients/python/requirements.txt" >>"$log" 2>&1; then
        skip columns "the Python packages of clients/python/requirements.txt cannot be had here (see $log)"
        return
    fi
    finish columns "$hash" "$("$out/columns/bin/python" --version 2>&1)"
}

setup_java() {
    local hash
    hash=$(fingerprint "$here/java/pom.xml")
    if ! command -v java >/dev/null || ! command -v javac >/dev/null; then
        skip java "a JDK 17 or newer (java, javac) is not installed"
        return
    fi
    if fresh java "$hash"; then
        say "java: Kafka jars up to date"
    else
        if ! command -v mvn >/dev/null; then
            skip java "mvn (Maven) is not installed"
            return
        fi
        say "java: fetching Apache Kafka 4.3 from Maven"
        rm -rf "$out/java/lib"
        run java retried mvn -q -B -f "$here/java/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$out/java/lib" || return
        finish java "$hash" "$(ls "$out/java/lib" | grep -c '\.jar$') jars"
    fi
    hash=$(fingerprint "$here/java/pom.xml" "$here"/java/src/meridian/compat/*.java)
    if fresh java-classes "$hash"; then
        say "java: client program up to date"
        return
    fi
    rm -rf "$out/java/classes"
    mkdir -p "$out/java/classes"
    run java-classes javac -nowarn -d "$out/java/classes" -cp "$out/java/lib/*" "$here"/java/src/meridian/compat/*.java || return
    finish java-classes "$hash" "javac"
}

setup_go() {
    local hash
    hash=$(fingerprint "$here"/go/*.go "$here"/go/go.mod "$here"/go/go.sum)
    if fresh go "$hash"; then
        say "go: up to date"
        return
    fi
    if ! command -v go >/dev/null; then
        skip go "go is not installed"
        return
    fi
    say "go: building the franz-go client"
    mkdir -p "$out/go"
    run go retried go build -C "$here/go" -o "$out/go/franz" . || return
    finish go "$hash" "$(go version | cut -d' ' -f3)"
}

setup_kcat() {
    if command -v kcat >/dev/null; then
        rm -f "$out/kcat.missing"
        say "kcat: up to date"
    elif debian kcat; then
        finish kcat debian "Debian package"
    else
        skip kcat "kcat is not installed and cannot be (on Debian, as root: apt-get install kcat)"
    fi
}

setup_strace() {
    if command -v strace >/dev/null; then
        rm -f "$out/strace.missing"
        say "strace: up to date"
    elif debian strace; then
        finish strace debian "Debian package, makes fsync fail"
    else
        skip strace "strace is not installed and cannot be (on Debian, as root: apt-get install strace)"
    fi
}

for client in ${*:-python columns java go kcat strace}; do
    case $client in
        python | columns | java | go | kcat | strace) "setup_$client" ;;
        *)
            say "unknown client '$client': expected python, columns, java, go, kcat or strace"
            exit 2
            ;;
    esac
done
exit $failed
