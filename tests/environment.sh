# What .ci/run and tests/run.sh share: where builds go, and what must be installed. To be sourced.

source tests/services/common.sh

# Builds live outside the clone where that is possible, so that a fresh clone finds what was built before.
if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    cache="${XDG_CACHE_HOME:-${HOME:-}/.cache}/horizons-target"
    if [[ "$cache" = /.cache/* ]] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
        cache="$PWD/target"
    fi
    export CARGO_TARGET_DIR="$cache"
fi

# rustup takes the toolchain of rust-toolchain.toml by its number. Where it has that version under the name `stable`
# only, and may have no way to fetch it again, this name is taken.
pinned="$(sed -n -E 's/^channel = "(.*)"$/\1/p' rust-toolchain.toml)"
installed="$(rustup toolchain list 2>/dev/null || true)"
if [[ -z "${RUSTUP_TOOLCHAIN:-}" && "$installed" != *"$pinned-"* && "$installed" = *stable-* ]]; then
    if [[ "$(RUSTUP_TOOLCHAIN=stable cargo --version)" = "cargo $pinned "* ]]; then
        export RUSTUP_TOOLCHAIN=stable
    fi
fi
unset pinned installed

# A run builds each thing once: what incremental builds keep only costs time and disk here, and an outdated
# rest of it has made clippy fail.
export CARGO_INCREMENTAL=0

# What must be there: a program, and Debian's package of it. To build: a C and a C++ compiler, make and perl. To
# look into a store: sqlite3. For real services and stock clients: Java and Maven (Kafka's jars), PostgreSQL,
# Node.js with npm (KafkaJS), kcat, PgBouncer, and openssl for certificates.
needed=(
    gcc:gcc g++:g++ make:make perl:perl sqlite3:sqlite3
    java:default-jre-headless mvn:maven psql:postgresql-client node:nodejs npm:npm kcat:kcat openssl:openssl
    setpriv:util-linux python3:python3 pgbouncer:pgbouncer
)

# Installs what is missing.
install_missing() {
    local missing=() pair tool package
    for pair in "${needed[@]}"; do
        tool="${pair%%:*}" package="${pair##*:}"
        command -v "$tool" >/dev/null 2>&1 || missing+=("$package")
    done
    # Its server's programs are in no search path.
    postgres_programs >/dev/null 2>&1 || missing+=(postgresql)
    # Debian has the module that makes environments in a package of its own.
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
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

# Gets what services and stock clients are made of, once, into a cache folder: Kafka's jars, KafkaJS, promtool. Later
# runs need no network for them.
prepare_services() {
    local version
    version="$(java -version 2>&1 | sed -n -E 's/.* version "([0-9]+).*/\1/p')"
    if [ "${version:-0}" -lt 17 ]; then
        echo "error: Kafka needs Java 17 or later, got \`${version:-none}\`" >&2
        return 1
    fi
    tests/services/kafka prepare >/dev/null
    tests/services/client prepare >/dev/null
    tests/services/promtool prepare >/dev/null
    tests/openapi/run prepare >/dev/null
    tests/containers/run prepare >/dev/null
}
