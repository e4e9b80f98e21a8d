# What .ci/run and tests/run.sh share: where builds go, and what must be installed. To be sourced.

# Builds live outside the clone where that is possible, so that a fresh clone finds what was built before.
if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    cache="${XDG_CACHE_HOME:-${HOME:-}/.cache}/horizons-target"
    if [[ "$cache" = /.cache/* ]] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
        cache="$PWD/target"
    fi
    export CARGO_TARGET_DIR="$cache"
fi

# A run builds each thing once: what incremental builds keep only costs time and disk here, and an outdated
# rest of it has made clippy fail.
export CARGO_INCREMENTAL=0

# Installs what is missing of: a C and a C++ compiler, make, perl, and sqlite3 for a look into a store.
install_missing() {
    local missing=() tool package
    for pair in gcc:gcc g++:g++ make:make perl:perl sqlite3:sqlite3; do
        tool="${pair%%:*}" package="${pair##*:}"
        command -v "$tool" >/dev/null 2>&1 || missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        if ! command -v apt-get >/dev/null 2>&1; then
            echo "error: missing: ${missing[*]}; install them (there is no apt-get here to do it)" >&2
            return 1
        fi
        local as_root=()
        [ "$(id -u)" -eq 0 ] || as_root=(sudo)
        echo "installing: ${missing[*]}"
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        echo "error: missing: cargo; install Rust (the version in Cargo.toml or later) and try again" >&2
        return 1
    fi
}
