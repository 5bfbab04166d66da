#!/usr/bin/env bash
# Installs the stores that the tests of the tier run, from the registries of their languages, into target/clients.
#
# Without arguments: versitygw, an S3 server, which all of them run. More opinions, on request:
#   minio     another S3 server (4 minutes); MERIDIAN_TEST_S3=minio lets the tests use it instead
#   azurite   Microsoft's emulator of Azure Blob Storage
# Idempotent. Where one cannot be had the reason is left in target/clients/NAME.missing; the tests print it and skip.
set -u -o pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
out="${CARGO_TARGET_DIR:-$root/target}/clients"
mkdir -p "$out"
failed=0

# retried COMMAND...: three times in all, because a download may fail for a reason of the moment.
retried() {
    "$@" && return 0
    sleep 5
    "$@" && return 0
    sleep 30
    "$@"
}

# install NAME VERSION TOOL WHAT COMMAND...: runs the command unless NAME was installed in this version already.
install() {
    local name=$1 version=$2 tool=$3 what=$4
    shift 4
    if [ -d "$out/$name" ] && [ "$(cat "$out/$name.stamp" 2>/dev/null)" = "$version" ]; then
        echo "setup: $name: up to date"
        return
    fi
    rm -f "$out/$name.stamp"
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is not installed, and $name needs it" | tee "$out/$name.missing"
        return
    fi
    echo "setup: $name: $what $version"
    if ! retried "$@" >"$out/$name.log" 2>&1; then
        tail -n 25 "$out/$name.log" | sed 's/^/    /'
        echo "installing $name failed (see $out/$name.log)" | tee "$out/$name.missing"
        failed=1
        return
    fi
    printf '%s' "$version" >"$out/$name.stamp"
    rm -f "$out/$name.missing"
    echo "setup: $name: installed ($version)"
}

go_install() { GOBIN="$out/$1" go install "$2@$3"; }

for name in "${@:-versitygw}"; do
    case $name in
        versitygw)
            version=v1.8.0
            install versitygw "$version" go "building (about 80 s)" \
                go_install versitygw github.com/versity/versitygw/cmd/versitygw "$version"
            ;;
        minio)
            # Its release tags are no semantic versions: this is RELEASE.2026-02-12.
            version=v0.0.0-20260212201848-7aac2a2c5b7c
            install minio "$version" go "building (about 4 minutes)" \
                go_install minio github.com/minio/minio "$version"
            ;;
        azurite)
            version=3.35.0
            install azurite "$version" npm "fetching" \
                npm install --silent --no-fund --no-audit --prefix "$out/azurite" "azurite@$version"
            ;;
        *)
            echo "unknown store '$name': expected versitygw, minio or azurite" >&2
            exit 2
            ;;
    esac
done
exit $failed
