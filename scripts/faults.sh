#!/usr/bin/env bash
# What a run must survive, at full length: kills, failing file-system calls, damaged files.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./scripts/faults.sh [kills|calls|damage]...

  kills   200 SIGKILLs over pre-training, fine-tuning and LoRA, half of them inside the writing of a
          checkpoint; each run ends in the bytes of one that was left alone (etude verify-resume)
  calls   each file-system call of the checkpoint saves of three runs fails, in each way it can
  damage  10,000 damaged checkpoints, token shards, recipes and JSONL files are read

All three if none is named, about an hour on two cores. The tests do a part of each.
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
parts=("$@")
[ $# -gt 0 ] || parts=(kills calls damage)
for part in "${parts[@]}"; do
  case $part in
    kills | calls | damage) ;;
    *) usage >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

kills() {
  cargo build --quiet -p etude-cli
  local etude=$folder/etude
  cp "${CARGO_TARGET_DIR:-target}/debug/etude" "$etude" # so that a build meanwhile does no harm
  cat >"$folder/base.toml" <<'TOML'
[data]
sources = ["shakespeare"]
[tokenizer]
vocab_size = 1024
[model]
n_layer = 2
n_head = 2
n_embd = 64
context = 128
[train]
steps = 40
batch_rows = 8
log_every = 1
checkpoint_every = 4
[eval]
windows = 16
TOML
  cat >"$folder/task.toml" <<TOML
[base]
path = "$folder/base"
[task]
source = "wiki-description"
prompt_chars = 160
context = 96
truncation = "truncate-prompt"
answer_tokens = 16
examples = 1000
[train]
steps = 40
batch_rows = 8
log_every = 1
checkpoint_every = 4
[eval]
examples = 8
TOML
  "$etude" pretrain "$folder/base.toml" --run "$folder/base" --quiet
  prove() { "$etude" verify-resume "$@" --run "$folder/proof" --quiet; }
  echo "Pre-training:"
  prove "$folder/base.toml" --kills 80 --seed 1
  echo "Fine-tuning:"
  prove "$folder/task.toml" --kills 60 --seed 2
  echo "LoRA:"
  prove "$folder/task.toml" --set base.method=lora --set lora.dropout=0.1 --kills 60 --seed 3
}

calls() {
  ETUDE_FAULTS=all TMPDIR=$(memory_folder) \
    cargo test -p etude-experiment --test faults -- --nocapture
}

damage() {
  ETUDE_DAMAGED=10000 TMPDIR=$(memory_folder) \
    cargo test -p etude-experiment --test damage -- --nocapture
}

# Thousands of tiny saves wait for a disk much longer than for memory.
memory_folder() { if [ -w /dev/shm ]; then echo /dev/shm; else echo "${TMPDIR:-/tmp}"; fi; }

for part in "${parts[@]}"; do
  printf '\n== %s\n' "$part"
  "$part"
done
