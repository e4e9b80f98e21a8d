# Both profiles of the compose file, on podman. To be sourced by `run`.

# Runs podman-compose on our file and the profile at hand, as a project of our own.
compose() {
    timeout 600 env COMPOSE_FILE="$root/docker/compose.yaml" COMPOSE_PROFILES="$profile" \
        IMAGE=localhost/horizons KAFKA_IMAGE=localhost/kafka POSTGRES_IMAGE=localhost/postgres \
        POSTGRES_PASSWORD="$password" COMPOSE_PROJECT_NAME=horizons-test \
        "$(tools)/venv/bin/python" -m podman_compose "$@"
}

# The container of a service.
container_of() { printf 'horizons-test_%s_1\n' "$1"; }

# Starts services, in the order that the compose file asks for: podman 4 does not wait for another's health, and starts
# none that needs one which has ended (`topics`).
start_services() {
    local one
    compose up --detach --no-build --no-deps "$@" || return 1
    for one in "$@"; do
        wait_until is_healthy "$(container_of "$one")" || return 1
    done
}

# Submits a job through a service, as docs/containers.md does, and prints how it ended.
job_by() { compose exec -T "$1" horizons jobs submit "$2" ngc-1300 --wait --json | field status; }

embedded_profile() {
    profile=embedded
    password=""
    compose config >"$work/embedded.yaml" 2>/dev/null
    check "the embedded profile is understood" grep -q 'horizons-data:/data' "$work/embedded.yaml"
    check "the embedded profile starts" compose up --detach --no-build
    server="$(container_of horizons)"
    check "its server becomes healthy" wait_until is_healthy
    server_is_confined
    check "no port is published" prints "" podman port "$server"
    check "a job completes" prints COMPLETED job_by horizons calibrate
    check "the embedded profile ends" compose down --volumes
    check "nothing of it is left" prints "" podman ps --all --quiet
}

production_profile() {
    local began_ms job
    profile=production
    password="$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')"
    compose config >"$work/production.yaml" 2>/dev/null
    check "the production profile is understood" grep -q 'kafka-3:9092' "$work/production.yaml"
    began_ms="$(now_ms)"
    check "brokers and database become healthy" start_services kafka-1 kafka-2 kafka-3 postgres
    check "topics are made" compose run --rm topics
    check "the process with the scheduler becomes healthy" start_services horizons-jobs
    check "the other process becomes healthy" start_services horizons-peer
    printf 'production is healthy after %d s\n' $((($(now_ms) - began_ms) / 1000))
    for server in "$(container_of horizons-jobs)" "$(container_of horizons-peer)"; do
        server_is_confined
        check "no port is published" prints "" podman port "$server"
    done
    check "the topics are as they should be" wait_until in_server horizons topics check
    check "a job completes" prints COMPLETED job_by horizons-jobs image
    check "a job that the other process took completes" prints COMPLETED job_by horizons-peer image

    # A deployment: the process with the scheduler ends, the other takes jobs, and it comes back.
    podman stop --time 30 "$(container_of horizons-jobs)" >/dev/null
    check "the process with the scheduler ends in order" prints 0 exit_code_of "$(container_of horizons-jobs)"
    server="$(container_of horizons-peer)"
    job="$(in_server horizons jobs submit image ngc-1300 --json | field job_id)"
    podman start "$(container_of horizons-jobs)" >/dev/null
    check "a job that was submitted meanwhile completes" wait_until prints COMPLETED of_job "$job" status

    podman kill --signal KILL "$(container_of kafka-2)" >/dev/null
    check "a job completes without one of three brokers" prints COMPLETED job_by horizons-peer image
    check "the audit trail verifies" every_log_verifies in_server horizons audit verify --json
    check "the production profile ends" compose down --volumes
    check "nothing of it is left" prints "" podman ps --all --quiet
}
