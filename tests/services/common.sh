# What the scripts in this folder share: where downloads are kept, free ports, waiting. To be sourced.

# The folder of this file.
services="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Where what was downloaded is kept: outside the clone where that is possible, so that a fresh clone finds it.
services_cache() {
    local cache="${XDG_CACHE_HOME:-${HOME:-}/.cache}/horizons-services"
    if [[ "$cache" = /.cache/* ]] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
        cache="$services/../../target/services"
        mkdir -p "$cache"
    fi
    (cd "$cache" && pwd)
}

# Prints the folder in the cache that belongs to what the named files say: `cached NAME COMMAND FILE…`. If it
# is not there, COMMAND is called with an empty folder to fill; the folder gets its name when it is complete, so
# two runs at once do not clash and one cut off leaves nothing that looks whole.
cached() {
    local name="$1" fill="$2" cache sum folder making
    shift 2
    cache="$(services_cache)"
    sum="$(cat "$@" | sha256sum)"
    folder="$cache/$name-${sum:0:16}"
    if [ ! -d "$folder" ]; then
        making="$(mktemp -d "$cache/making-$name.XXXXXX")"
        if ! "$fill" "$making" >&2; then
            rm -rf "$making"
            echo "error: could not fill $folder" >&2
            return 1
        fi
        chmod 755 "$making"
        mv -T "$making" "$folder" 2>/dev/null || rm -rf "$making"
    fi
    [ -d "$folder" ] && printf '%s\n' "$folder"
}

# Prints so many free loopback ports, each on a line. They are below the range that the system gives to
# outgoing connections: a port in that range can be taken by a client while the server on it is restarted.
free_ports() {
    perl -MIO::Socket::INET -e '
        my ($wanted, @held) = (shift);
        for (1 .. 1000) {
            last if @held == $wanted;
            my $socket = IO::Socket::INET->new(
                Listen => 1, LocalAddr => "127.0.0.1", LocalPort => 10240 + int(rand(20000)), ReuseAddr => 1);
            push @held, $socket if $socket;
        }
        die "error: no free ports\n" if @held < $wanted;
        print $_->sockport, "\n" for @held;
    ' "$1"
}

# Whether something accepts on the loopback port.
accepts() {
    (exec 9<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A short pause without a process of its own.
pause() {
    local nothing
    read -r -t 0.05 nothing <> <(:) || true
}

# Prints the folder of PostgreSQL's programs: the one that was named, or the newest there is.
postgres_programs() {
    local folder
    for folder in "${HORIZONS_POSTGRES_BIN:-}" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) \
        /opt/homebrew/bin /usr/local/bin /usr/bin; do
        if [ -x "$folder/initdb" ]; then
            printf '%s\n' "$folder"
            return 0
        fi
    done
    echo "error: PostgreSQL's \`initdb\` was not found: install it, or set HORIZONS_POSTGRES_BIN" >&2
    return 1
}
