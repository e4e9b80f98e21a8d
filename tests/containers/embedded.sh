# The image, and one server alone in a container: confined, healthy, ended, killed, started again. To be sourced by `run`.

confined=(--network none --read-only --tmpfs /tmp:size=16m --cap-drop=all --security-opt=no-new-privileges
    --memory=1g --pids-limit=256)

# Reads one thing of the image's description.
of_image() { podman image inspect --format "$1" localhost/horizons; }

# Starts a server in a new container of this name, on the volume `data`.
start_server() { podman run --detach --name "$1" "${confined[@]}" --volume data:/data localhost/horizons >/dev/null; }

in_server() { podman exec "$server" "$@"; }

# By the image's own health check: podman starts none by itself without systemd. In a container that ends just then, it
# waits for ever.
is_healthy() { timeout 20 podman --log-level fatal healthcheck run "${1:-$server}"; }

exit_code_of() { podman inspect --format '{{.State.ExitCode}}' "$1"; }

is_ended() { [ "$(podman inspect --format '{{.State.Status}}' "$1")" = exited ]; }

# Prints a field of the first line of JSON; of an object in an object with dots.
field() {
    python3 -c 'import functools, json, sys
print(functools.reduce(lambda at, name: at[name], sys.argv[1].split("."), json.loads(sys.stdin.readline())))' "$1"
}

# Prints a field of a job.
of_job() { in_server horizons jobs show "$1" --json | field "job.$2"; }

# Submits a job that runs until it is cancelled, and prints its id once it runs.
submit_observe() {
    local job
    job="$(in_server horizons jobs submit observe ngc-1300 --json | field job_id)"
    wait_until prints RUNNING of_job "$job" status
    printf '%s\n' "$job"
}

# Prints the state letters of all processes in the container.
process_states() { in_server sh -c 'for one in /proc/[0-9]*/stat; do sed "s/.*) \(.\).*/\1/" "$one" 2>/dev/null; done'; }

has_no_zombie() {
    local states
    states="$(process_states)"
    [ -n "$states" ] && ! grep -q Z <<<"$states"
}

# Prints the addresses, in the kernel's hexadecimal form, that something listens on in the container.
listened_on() { in_server sh -c 'cat /proc/net/tcp /proc/net/tcp6 2>/dev/null' | awk '$4 == "0A" { print $2 }'; }

# Whether all that listens does so on 127.0.0.1, and something does.
listens_on_loopback_only() {
    local all
    all="$(listened_on)"
    [ -n "$all" ] && ! grep -qv '^0100007F:' <<<"$all"
}

kill_shim() {
    in_server sh -c 'for one in /proc/[0-9]*; do
        if tr "\0" " " <"$one/cmdline" 2>/dev/null | grep -q "run-[a]gent"; then kill -KILL "${one#/proc/}"; fi
    done'
}

# Whether a command prints a report of at least one log of the audit trail, and of none that does not verify.
every_log_verifies() {
    "$@" | python3 -c '
import json, sys
results = [json.loads(line)["result"] for line in sys.stdin]
print(results)
sys.exit(set(results) != {"verified"})'
}

image_is_as_described() {
    local image_mb base_mb binary_mb
    check "the image runs as user 10001" prints 10001:10001 of_image '{{.Config.User}}'
    check "the image ends by SIGTERM" prints SIGTERM of_image '{{.Config.StopSignal}}'
    check "the image has a health check" prints "[CMD horizons ready]" of_image '{{.HealthCheck.Test}}'
    check "the image has a volume" prints "map[/data:{}]" of_image '{{.Config.Volumes}}'
    check "the image names its revision" prints "$(cat "$work/revision")" \
        of_image '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    podman create --name looked-at localhost/horizons >/dev/null
    podman cp looked-at:/usr/local/bin/horizons "$work/horizons"
    podman rm looked-at >/dev/null
    check "the program has no symbols left" sh -c "! readelf -S '$work/horizons' | grep -q -e symtab -e debug_info"
    image_mb=$(($(of_image '{{.Size}}') / 1000000))
    binary_mb=$(($(stat -c %s "$work/horizons") / 1000000))
    base_mb=$(($(podman image inspect --format '{{.Size}}' localhost/debian) / 1000000))
    printf 'the image has %d MB, %d of them Debian, the program %d\n' "$image_mb" "$base_mb" "$binary_mb"
}

server_is_confined() {
    check "the server's user is 10001" prints 10001 in_server id -u
    check "the server has no capability" prints 0000000000000000 in_server sed -n 's/^CapBnd:\s*//p' /proc/1/status
    check "the server can get no right" prints 1 in_server sed -n 's/^NoNewPrivs:\s*//p' /proc/1/status
    check "the root file system is read-only" in_server sh -c '! touch /usr/local/bin/other'
    check "the data folder is the user's alone" prints "700 10001" in_server stat -c '%a %u' /data
    check "the server listens on loopback only" listens_on_loopback_only
}

embedded() {
    local began_ms job observed ended_ms
    image_is_as_described

    podman volume create data >/dev/null
    server=first
    began_ms="$(now_ms)"
    start_server "$server"
    check "a first start becomes healthy" wait_until is_healthy
    printf 'healthy after %d ms\n' $(($(now_ms) - began_ms))
    server_is_confined
    job="$(in_server horizons jobs submit image ngc-1300 --parameter width=256 --wait --json | field job_id)"
    check "a job completes" prints COMPLETED of_job "$job" status
    check "the audit trail verifies" every_log_verifies in_server horizons audit verify --json

    observed="$(submit_observe)"
    kill_shim
    check "a job whose shim was killed fails" wait_until prints attempt_lost of_job "$observed" failure.error_code
    check "orphans are waited for" wait_until has_no_zombie

    check "a second server on the volume is refused" prints 4 second_server_code

    began_ms="$(now_ms)"
    podman stop --time 30 "$server" >/dev/null
    ended_ms=$(($(now_ms) - began_ms))
    check "SIGTERM ends it with code 0" prints 0 exit_code_of "$server"
    check "SIGTERM ends it within 15 s" test "$ended_ms" -lt 15000
    printf 'ended after %d ms\n' "$ended_ms"
    backup_can_be_read

    # As an upgrade does it: another container, the same volume.
    podman rm "$server" >/dev/null
    server=upgraded
    start_server "$server"
    check "another container on the volume becomes healthy" wait_until is_healthy
    check "it has the job" prints COMPLETED of_job "$job" status

    observed="$(submit_observe)"
    podman kill --signal KILL "$server" >/dev/null
    check "SIGKILL ends it" wait_until is_ended "$server"
    check "its code is 137" prints 137 exit_code_of "$server"
    podman start "$server" >/dev/null
    check "it starts again" wait_until is_healthy
    check "it still has the job" prints COMPLETED of_job "$job" status
    check "an attempt that ran in the container is lost with it" \
        wait_until prints attempt_lost of_job "$observed" failure.error_code
    check "the audit trail still verifies" every_log_verifies in_server horizons audit verify --json
    podman rm --force --time 10 "$server" >/dev/null
}

second_server_code() {
    local code=0
    podman run --rm "${confined[@]}" --volume data:/data localhost/horizons >/dev/null 2>&1 || code=$?
    echo "$code"
}

# What docs/containers.md says about a backup of a server that was stopped.
backup_can_be_read() {
    mkdir -p "$work/backup"
    podman run --rm --user 0 --network none --entrypoint tar --volume data:/data:ro --volume "$work/backup:/backup" \
        localhost/horizons -C /data -cf /backup/data.tar --exclude=./ballast .
    mkdir -p "$work/restored"
    tar -C "$work/restored" -xf "$work/backup/data.tar"
    check "a backup verifies" every_log_verifies podman run --rm --user 0 --network none \
        --volume "$work/restored:/copy:ro" localhost/horizons audit verify --data /copy --json
}
