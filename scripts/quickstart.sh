#!/usr/bin/env bash
# From a fresh clone to a pre-trained and a fine-tuned model. Arguments go to `etude quickstart`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*" >&2; }

say "1 of 3: set-up. libtorch comes into your cache; the first time a download of 0.55 GB"
./scripts/setup.sh --build release

say "2 of 3: building etude. The first time three to six minutes, nearly all of it dependencies"
cargo build --release -p etude-cli

say "3 of 3: training. A base model on general text, then one task; five to ten minutes"
# Cargo knows where the program is, also with a CARGO_TARGET_DIR, and hands the process over to it.
exec cargo run --quiet --release -p etude-cli -- quickstart "$@"
