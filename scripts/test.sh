#!/usr/bin/env bash
# Everything that must hold before a change goes in. The last line is "N passed, N failed".
#
# All steps use the dev profile, so that the slowest dependency, torch-sys, is compiled once. Where CI
# is set, nothing is kept for a next build of changed code, which would double the disk it takes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

step() { printf '\n== %s\n' "$*" >&2; }

step "set-up"
./scripts/setup.sh --build dev

step "formatting"
cargo fmt --all --check

# A LIBTORCH that leads nowhere makes torch-sys fail, should one of these ever reach it.
step "crates that need no libtorch"
env -u LIBTORCH_USE_PYTORCH LIBTORCH=/nonexistent \
  cargo build -p etude-files -p etude-tokenizer -p etude-data -p etude-scores -p etude-report

step "clippy (the first time, this compiles libtorch's bindings: one to three minutes)"
cargo clippy --workspace --all-targets -- -D warnings

# Tests run side by side; were each to use every core for its tensors, all would crawl.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
status=0

step "documentation examples"
cargo test --workspace --doc --no-fail-fast 2>&1 | tee "$log" || status=1

step "tests"
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace --no-fail-fast 2>&1 | tee -a "$log" || status=1
else
  cargo test --workspace --all-targets --no-fail-fast 2>&1 | tee -a "$log" || status=1
fi

# Adds up what the runners said: cargo test one line a program, nextest one line for all.
totals=$(sed $'s/\x1b\\[[0-9;]*m//g' "$log" | awk '
  /^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) passed += $(i - 1); if ($i ~ /^failed/) failed += $(i - 1) } }
  /^ *Summary \[/ {
    match($0, /\][ ]*[0-9]+/); ran = substr($0, RSTART + 1) + 0
    match($0, /[0-9]+ passed/); good = substr($0, RSTART) + 0
    passed += good; failed += ran - good
  }
  END { printf "%d passed, %d failed", passed, failed }')

# A program that does not build, or dies before its summary, leaves no count behind.
if [ "$status" -ne 0 ] && [[ $totals == *", 0 failed" ]]; then
  printf '\nsomething failed outside of a test; see above\n'
fi
printf '\n%s\n' "$totals"
exit "$status"
