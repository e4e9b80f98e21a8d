#!/usr/bin/env bash
# The figures on real services, in one run: Kafka (one broker) and PostgreSQL are started on loopback, everything
# is measured beside its limits and beside other clients, and one table is printed.
#
#   benches/kafka.sh             throughput, then latencies
#   benches/kafka.sh throughput  figure 1 and KafkaJS `eachMessage` that does nothing, on the same topic
#   benches/kafka.sh latency     figure 3 and Kafka's own EndToEndLatency
#
# Environment: RECORDS (300000), ROUNDS (3), RATE (1000), SECONDS_EACH (20); HORIZONS names a program that is
# built already; POSTGRES_BIN the folder of initdb and pg_ctl. Everything else in the machine should be quiet.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
services="$root/tests/services"

records="${RECORDS:-300000}" rounds="${ROUNDS:-3}" rate="${RATE:-1000}" seconds="${SECONDS_EACH:-20}"
what="${1:-all}"

# KafkaJS reads this topic; it holds 7 of 12 events.
prefix="bench-kept."
topic="${prefix}job-lifecycle"
topic_records=$((records * 7 / 12))

# Round trips that Kafka's own tool makes, and their size in bytes.
trips=10000
trip_bytes=475

work="$(mktemp -d /tmp/horizons-bench-XXXXXX)"
chmod 755 "$work"
broker_pid="" as_postgres=()

finish() {
    if [ -d "$work/postgres/data" ]; then
        "${as_postgres[@]}" "$bin/pg_ctl" -D "$work/postgres/data" -m immediate stop >/dev/null 2>&1 || true
    fi
    # The broker lives as long as its standard input.
    if [ -n "$broker_pid" ]; then
        exec 8>&-
        wait "$broker_pid" || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ -z "${HORIZONS:-}" ]; then
    (cd "$root" && cargo build --release --quiet)
    HORIZONS="${CARGO_TARGET_DIR:-$root/target}/release/horizons"
fi

start_kafka() {
    "$services/kafka" prepare >/dev/null
    mkfifo "$work/broker-input"
    "$services/kafka" start "$work/kafka" --calm <"$work/broker-input" >"$work/broker" &
    broker_pid=$!
    exec 8>"$work/broker-input"
    for _ in $(seq 600); do
        ! grep -q '^KAFKA_READY=yes' "$work/broker" || break
        kill -0 "$broker_pid"
        sleep 0.2
    done
    bootstrap="$(sed -n 's/^KAFKA_BOOTSTRAP=//p' "$work/broker")"
    [ -n "$bootstrap" ] || { echo "error: Kafka did not start" >&2; exit 1; }
}

start_postgres() {
    local folder port
    bin="${POSTGRES_BIN:-}"
    for folder in /usr/lib/postgresql/{17,16,15,14}/bin /usr/local/bin /usr/bin; do
        if [ -z "$bin" ] && [ -x "$folder/initdb" ]; then bin="$folder"; fi
    done
    [ -n "$bin" ] || { echo "error: no initdb: install PostgreSQL or set POSTGRES_BIN" >&2; exit 1; }
    mkdir "$work/postgres"
    if [ "$(id -u)" = 0 ]; then
        # Its programs refuse to run as root.
        chown postgres "$work/postgres"
        as_postgres=(setpriv --reuid postgres --regid postgres --clear-groups)
    fi
    port="$(source "$services/common.sh" && free_ports 1)"
    cd "$work/postgres"
    "${as_postgres[@]}" "$bin/initdb" -D "$work/postgres/data" --auth=trust --username=horizons --encoding=UTF8 \
        --locale=C >/dev/null
    "${as_postgres[@]}" "$bin/pg_ctl" -D "$work/postgres/data" -w -t 120 -l "$work/postgres/log" start \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/postgres -c max_wal_size=4GB" >/dev/null 8>&-
    url="postgres://horizons@127.0.0.1:$port/postgres"
    cd "$root"
}

# One figure a line of what `--json` prints, as a table.
table() {
    perl -ne '
        my %field = /"(\w+)":("[^"]*"|[-0-9.e]+)/g;
        s/^"|"$//g for values %field;
        printf "%-42s %12.3f %-10s %7.3f of %-24s %12.3f  spread %.2f\n",
            @field{qw(figure value unit ratio limit limit_value spread)} if $field{figure};' "$1"
}

# How often and how long the broker stood still since it started: every latency beside it has that in it.
pauses() {
    perl -ne '
        $pauses++, $sum += $1, $longest = $1 > $longest ? $1 : $longest if /Pause .* ([0-9.]+)ms$/;
        END { printf "broker_pauses: %d, %.1f ms together, the longest %.1f ms\n", $pauses, $sum, $longest }' "$work/kafka/broker-1/gc.log"
}

throughput() {
    "$HORIZONS" bench --kafka "$bootstrap" --postgres "$url" --records "$records" --rounds "$rounds" \
        --keep-topics "$prefix" --json >"$work/throughput.json"
    table "$work/throughput.json"
    pauses
    local speed own
    own="$(sed -n 's/.*"figure":"one_group_kafka_sqlite".*"value":\([0-9.]*\).*/\1/p' "$work/throughput.json" | head -n 1)"
    for ((round = 1; round <= rounds; round++)); do
        "$services/client" bench "$bootstrap" "$topic" $((topic_records * 99 / 100))
    done | sort -n >"$work/kafkajs"
    speed="$(sed -n "$(((rounds + 1) / 2))p" "$work/kafkajs")"
    perl -e 'printf "%-42s %12.3f %-10s %7.3f of %-24s %12.3f\n", "kafkajs_each_message", $ARGV[0], "records/s",
        $ARGV[1] / $ARGV[0], "one_group_kafka_sqlite by it", $ARGV[1]' "$speed" "$own"
}

latency() {
    "$HORIZONS" bench --kafka "$bootstrap" --postgres "$url" --latency --rate "$rate" --seconds "$seconds" \
        --json >"$work/latency.json"
    table "$work/latency.json"
    pauses
    echo "Kafka's EndToEndLatency, one record after the other:"
    "$services/kafka" tool org.apache.kafka.tools.EndToEndLatency "$bootstrap" bench-trips "$trips" all "$trip_bytes" \
        </dev/null | grep -E '^(Avg|Percentiles)'
}

start_kafka
start_postgres
uptime
case "$what" in
    throughput) throughput ;;
    latency) latency ;;
    all) throughput; latency ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
uptime
