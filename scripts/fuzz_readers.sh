#!/usr/bin/env bash
# Damages small weight files at random and reads them: GGUF and safetensors, for as long as one likes.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./scripts/fuzz_readers.sh [SECONDS]

Half of the time (600 seconds in all if none are given) goes to GGUF files, half to safetensors. A panic,
a hang, or memory beyond what such a file can fill ends it, and the damaged file is kept. A bounded form of
the same is part of the tests (crates/model/tests/untrusted.rs).
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-600}
case $seconds in
  '' | *[!0-9]*) usage >&2; exit 2 ;;
esac

goldens=crates/model/tests/goldens
fuzz() { cargo run --quiet -p etude-model --example fuzz_readers -- "$((seconds / 2))" "$@"; }
echo "GGUF:"
fuzz "$goldens"/gguf/*.gguf
echo "safetensors:"
fuzz "$goldens"/{gpt2,llama,llama_tied,qwen3}/model.safetensors
