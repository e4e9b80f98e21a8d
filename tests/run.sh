#!/usr/bin/env bash
# Runs every test and ends with one line: `N passed, N failed`. Exit code 0 only if none failed.
#   bash tests/run.sh          everything, the long suites in their seeded short form
#   bash tests/run.sh --full   the long suites with their full counts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/environment.sh

mode=short
case "${1:-}" in
    "") ;;
    --full) mode=full ;;
    *) echo "usage: bash tests/run.sh [--full]" >&2; exit 2 ;;
esac

passed=0
failed=0
failures=()
output="$(mktemp)"
trap 'rm -f "$output"' EXIT

# The one step that may be without a test.
documents="examples in documents"

# Runs a step that prints cargo's `test result:` lines, and counts them. A step that ends badly without a
# failed test of its own (a build error, a crash) counts as one failure.
run_tests() {
    local name="$1" status=0 here_passed here_failed
    shift
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$output" || status=$?
    here_passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$output")
    here_failed=$(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$output")
    if [ "$status" -ne 0 ] && [ "$here_failed" -eq 0 ]; then
        here_failed=1
    fi
    if [ "$status" -eq 0 ] && [ "$here_passed" -eq 0 ] && [ "$name" != "$documents" ]; then
        echo "error: $name ran no test" >&2
        here_failed=1
    fi
    passed=$((passed + here_passed))
    failed=$((failed + here_failed))
    [ "$here_failed" -eq 0 ] || failures+=("$name")
}

# Runs a long suite: a function that is given `short` or `full` and ends with 0 if it passed.
run_suite() {
    local name="$1" status=0
    printf '\n== %s (%s)\n' "$name" "$mode"
    "$name" "$mode" || status=$?
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$name")
    fi
}

# Long suites, one function each, listed in `suites`. A suite prints its seed and its counts.
suites=(document_and_server_agree containers)

# Requests made from the published document, and the server's answers to them.
document_and_server_agree() {
    cargo build --locked "${features[@]}" --bin horizons && tests/openapi/run "$CARGO_TARGET_DIR/debug/horizons"
}

# The image and the compose file: looked at in the short form; built, run and killed on podman in the full one.
containers() { tests/containers/run "$1"; }

install_missing
prepare_services
started=$SECONDS

# One set of features for all of it, so that everything is built once. Fail-points do nothing until a test
# names one.
features=(--features fail-points)
# The long tests of the one binary read their counts from the environment; without these they run their short
# form. `HORIZONS_TEST_SEED` repeats a run that failed.
from_outside=()
if [ "$mode" = full ]; then
    export HORIZONS_TEST_KILL_ROUNDS=200 HORIZONS_TEST_AIMED_ROUNDS=20 HORIZONS_TEST_PANICS=40
    export HORIZONS_TEST_EARLY_KILLS=200 HORIZONS_TEST_CORE_KILLS=300 HORIZONS_TEST_CORE_HISTORIES=256
    # Faults of the production path, `tests/integration/production`.
    export HORIZONS_TEST_PRODUCTION_KILLS=300 HORIZONS_TEST_BROKER_KILLS=10 HORIZONS_TEST_BROKERS_AWAY_S=60
    export HORIZONS_TEST_JOINS=30 HORIZONS_TEST_DATABASE_ROUNDS=10 HORIZONS_TEST_COMMIT_CUTS=60 HORIZONS_TEST_PLAN_ROWS=1000000
    export HORIZONS_TEST_WIRE_ROUNDS=20
    from_outside=(--show-output)
fi
run_tests "packages" cargo test --workspace --locked "${features[@]}" --lib --bins --no-fail-fast
run_tests "from outside" cargo test --locked "${features[@]}" --test integration --no-fail-fast -- "${from_outside[@]}"
run_tests "$documents" cargo test --workspace --locked "${features[@]}" --doc --no-fail-fast
for suite in "${suites[@]}"; do
    run_suite "$suite"
done

printf '\n'
[ "${#failures[@]}" -eq 0 ] || printf 'failed: %s\n' "${failures[@]}"
printf '%d s, %s form\n' "$((SECONDS - started))" "$mode"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
