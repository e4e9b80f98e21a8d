# What the container tests run on: packages, podman's settings, base images, the image itself. To be sourced by `run`.

# A step that takes longer than this many seconds is not coming.
limit_s=180

checks=0

# Runs a command, whose promise the first argument words; without success everything ends here.
check() {
    local promise="$1"
    shift
    if ! "$@" >"$work/output" 2>&1; then
        echo "FAILED: $promise: $*" >&2
        tail -n 40 "$work/output" >&2
        exit 1
    fi
    checks=$((checks + 1))
    printf 'ok     %s\n' "$promise"
}

# Whether a command's output, without space around it, is a text.
prints() {
    local wanted="$1" got
    shift
    got="$("$@" | sed -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//')" || return 1
    [ "$got" = "$wanted" ] || { printf 'wanted `%s`, got `%s`\n' "$wanted" "$got"; return 1; }
}

# Waits until a command succeeds.
wait_until() {
    local until=$((SECONDS + limit_s))
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "not within $limit_s s: $*"
            return 1
        fi
        pause
    done
}

# Milliseconds of the clock.
now_ms() { date +%s%3N; }

install_packages() {
    local missing=() pair
    for pair in podman:podman buildah:buildah runc:runc debootstrap:debootstrap iptables:iptables \
        ip:iproute2; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    # Names of containers on a network are looked up by this plug-in of podman 4's networks.
    [ -e /usr/lib/cni/dnsname ] || missing+=(golang-github-containernetworking-plugin-dnsname)
    [ "${#missing[@]}" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: missing: ${missing[*]}; install them (there is no apt-get here to do it)" >&2
        return 1
    fi
    echo "installing: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Without systemd podman says at every start that it has no timer for health checks; errors are told all the same.
podman() { command podman --log-level fatal "$@"; }

# Podman's settings: everything in a folder of ours, and what runs without systemd and without the right to raise limits.
configure_podman() {
    mkdir -p "$work/networks" "$work/runtime"
    cat >"$work/containers.conf" <<END
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
tmp_dir = "$work/runtime"
volume_path = "$work/volumes"
[network]
network_config_dir = "$work/networks"
END
    cat >"$work/storage.conf" <<END
[storage]
driver = "overlay"
graphroot = "$work/store"
runroot = "$work/runroot"
END
    printf 'unqualified-search-registries = []\n' >"$work/registries.conf"
    export CONTAINERS_CONF="$work/containers.conf" CONTAINERS_STORAGE_CONF="$work/storage.conf"
    export CONTAINERS_REGISTRIES_CONF="$work/registries.conf"
    # Buildah keeps what is mounted as a cache here.
    export TMPDIR="$caches"
}

# Ends and removes all containers: podman sees those of our folder only. One that others depend on goes after those, so
# it may take several rounds.
end_containers() {
    local try
    for ((try = 0; try < 20; try++)); do
        timeout 60 podman --log-level fatal rm --all --force --depend --time 0 >/dev/null 2>&1 || true
        timeout 60 podman --log-level fatal pod rm --all --force --time 0 >/dev/null 2>&1 || true
        [ -n "$(podman ps --all --quiet 2>/dev/null)" ] || break
        pause
    done
    podman network prune --force >/dev/null 2>&1 || true
}

# Ends what still runs, and removes all that is ours.
clean_up() {
    local try mount
    if [ -n "${inner:-}" ]; then
        kill "$inner" 2>/dev/null || true
        wait "$inner" 2>/dev/null || true
    fi
    end_containers
    while read -r mount; do
        umount -l "$mount" 2>/dev/null || true
    done < <(awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r)
    for ((try = 0; try < 20; try++)); do
        rm -rf "$work" 2>/dev/null && break
        pause
    done
}

prepare_machine() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "error: containers are run by root here; run \`tests/containers/run full\` as root" >&2
        return 1
    fi
    install_packages
    caches="$(services_cache)/containers-build"
    mkdir -p "$caches"
    work="$(mktemp -d "${TMPDIR:-/tmp}/horizons-containers.XXXXXX")"
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP
    configure_podman
}

# Runs a command such that a signal to this script ends it too, at once.
interruptible() {
    local status=0
    "$@" &
    inner=$!
    wait "$inner" || status=$?
    inner=""
    return "$status"
}

# Builds a stand-in, with what is given besides.
build_stand_in() {
    local name="$1"
    shift
    interruptible nice -n 10 buildah bud --isolation chroot --format docker --pull=never --tag "localhost/$name" "$@" \
        --file "$here/stand-ins/$name.Dockerfile" "$work/context" >>"$work/build.log" 2>&1 ||
        { tail -n 40 "$work/build.log" >&2; return 1; }
}

# What stands in for the images that the Dockerfile begins with: Debian, and Debian with this machine's Rust.
make_base_images() {
    local debian
    debian="$(cached debian "$here/stand-ins/debian" "$here/stand-ins/debian")"
    podman import --quiet "$debian/debian.tar" localhost/debian >/dev/null
    mkdir -p "$work/context"
    # What this machine trusts, beside what Debian brings.
    cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$work/context/host-ca.crt"
    build_stand_in rust
}

build_image() {
    local began_ms toolchain settings=()
    make_base_images
    toolchain="$(cd "$root" && rustc --print sysroot)"
    (git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown) >"$work/revision"
    # Cargo's settings of this machine, if it has any.
    [ ! -f "${CARGO_HOME:-$HOME/.cargo}/config.toml" ] ||
        settings=(--volume "${CARGO_HOME:-$HOME/.cargo}/config.toml:/usr/local/cargo/config.toml:ro")
    began_ms="$(now_ms)"
    interruptible nice -n 10 buildah bud --isolation chroot --format docker --pull=never --tag localhost/horizons \
        --build-arg BUILDER_IMAGE=localhost/rust --build-arg RUNTIME_IMAGE=localhost/debian \
        --build-arg REVISION="$(cat "$work/revision")" \
        --volume "$toolchain:/usr/local/toolchain:ro" "${settings[@]}" \
        --file "$root/docker/Dockerfile" "$root" >"$work/build.log" 2>&1 ||
        { tail -n 40 "$work/build.log" >&2; echo "error: the image was not built" >&2; return 1; }
    printf 'built in %d s\n' $((($(now_ms) - began_ms) / 1000))
}

# The stand-ins for the images of Kafka and PostgreSQL.
build_services() {
    cp "$here/stand-ins/kafka" "$here/stand-ins/postgres" "$work/context/"
    mkdir -p "$work/context/jars"
    cp "$("$services/kafka" jars)"/*.jar "$work/context/jars/"
    build_stand_in kafka
    build_stand_in postgres
}
