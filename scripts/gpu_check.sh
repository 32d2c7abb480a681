#!/usr/bin/env bash
# Checks and times Etude on a CUDA device: the figures of the GPU section in docs/benchmarks.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./scripts/gpu_check.sh [--steps N] [--rounds N] [--no-peer] [--programs DIR]

On a machine with a CUDA device, after ./scripts/setup.sh --cuda:

  1. logits, losses, gradients and continuations of every family of models, computed on the device,
     against the goldens made with Transformers (crates/model/tests/parity.rs);
  2. one training step of GPT-2 with 124 million parameters (16 x 1,024 tokens, bfloat16 autocast)
     beside PyTorch eager and compiled, in turns, each in a process of its own.

Ends with a table in Markdown on standard output; all else goes to standard error.

  --steps N    timed steps of a process (20); steps before them warm up
  --rounds N   processes of each kind (3); the table has the median of their medians
  --no-peer    Etude alone
  --programs DIR
               run DIR/etude and DIR/parity, built elsewhere, where there is no Rust to build with: copies
               of target/release/etude and of the program that `cargo test --release -p etude-model
               --test parity --no-run` names, with LD_LIBRARY_PATH leading to a libtorch 2.11 with CUDA.
               A build against the CPU's libtorch sees the device with LD_PRELOAD=libtorch_cuda.so

PYTHON names a Python with torch 2.11 for CUDA (python3). Nothing else may run meanwhile.
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
steps=20 rounds=3 peer=yes programs=
while [ $# -gt 0 ]; do
  case $1 in
    --steps) steps=${2:?--steps needs a number}; shift 2 ;;
    --rounds) rounds=${2:?--rounds needs a number}; shift 2 ;;
    --no-peer) peer=no; shift ;;
    --programs) programs=$(cd "${2:?--programs needs a folder}" && pwd); shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'gpu_check: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

say() { printf '\n== %s\n' "$*" >&2; }

fail() {
  printf '\ngpu_check: %s\n' "$1" >&2
  exit 1
}

for number in "$steps" "$rounds"; do
  case $number in
    '' | *[!0-9]* | 0*)
      printf 'gpu_check: --steps and --rounds take a number from 1, not %s\n' "$number" >&2
      exit 2
      ;;
  esac
done

# The cheap questions first: without a device, nothing is built.
[ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1 ||
  fail "this machine has no CUDA device (no /dev/nvidia0, and nvidia-smi finds none): nothing was checked.
Run this on one that has, with NVIDIA's driver installed."
[ -n "$programs" ] || [ -e .libtorch/lib/libtorch_cuda.so ] ||
  fail "the libtorch of this checkout has no CUDA: run \`./scripts/setup.sh --cuda\`, then this again."
command -v "$python" >/dev/null || fail "there is no $python: name a Python 3 with PYTHON=…"
if [ "$peer" = yes ]; then
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    fail "$python has no torch that sees the device: name one that has with PYTHON=…, or leave PyTorch out with --no-peer."
fi

if [ -n "$programs" ]; then
  etude() { "$programs/etude" "$@"; }
  parity() { "$programs/parity"; }
else
  say "building"
  cargo build --release -p etude-cli >&2
  etude() { cargo run --quiet --release -p etude-cli -- "$@"; }
  parity() { cargo test --release -p etude-model --test parity; }
fi

say "the device"
# Doctor's exit status speaks of the whole machine; here only its list of devices counts.
findings=$(etude doctor --json) || true
"$python" -c '
import json, sys
devices = [unit["name"] for unit in json.loads(sys.argv[1])["devices"]]
print(*devices, sep=", ", file=sys.stderr)
sys.exit(not any(name.startswith("cuda") for name in devices))
' "$findings" || fail "libtorch sees no CUDA device: compare its CUDA 13 with the driver that \`nvidia-smi\` shows, and see \`etude doctor\`."

say "parity with the goldens, on the device"
ETUDE_TEST_DEVICE=cuda parity >&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

time_etude() {
  etude bench train --preset gpt2-124m --device cuda --precision bfloat16 --steps "$steps" --json
}
time_pytorch() {
  "$python" scripts/bench/pytorch_step.py --device cuda --dtype bfloat16 --steps "$steps" \
    --n-layer 12 --n-embd 768 --n-head 12 --vocab 50304 --batch 16 --context 1024 "$@"
}

for round in $(seq "$rounds"); do
  say "a training step, round $round of $rounds"
  time_etude >"$work/etude.$round.json"
  if [ "$peer" = yes ]; then
    time_pytorch >"$work/eager.$round.json"
    time_pytorch --compile >"$work/compiled.$round.json"
  fi
done

"$python" - "$work" <<'PYTHON'
import json
import statistics
import sys
from pathlib import Path

# The shape of the preset gpt2-124m, which crates/train/src/bench.rs defines.
LAYERS, WIDTH, VOCAB, ROWS, CONTEXT = 12, 768, 50_304, 16, 1024
MATRICES = LAYERS * 12 * WIDTH**2 + VOCAB * WIDTH
PARAMETERS = MATRICES + CONTEXT * WIDTH + LAYERS * 13 * WIDTH + 2 * WIDTH
# Six operations for each parameter in a matrix, twelve for each layer's width and position seen.
FLOPS = 6 * MATRICES + 12 * LAYERS * WIDTH * CONTEXT

runs = {}
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    runs.setdefault(path.name.split(".")[0], []).append(json.loads(path.read_text()))
for name, reports in runs.items():
    for report in reports:
        # Etude's preset is fixed; what the peer was told on the command line is compared with it.
        if report.get("parameters", PARAMETERS) != PARAMETERS:
            sys.exit(f"{name} has {report['parameters']:,} parameters, not {PARAMETERS:,}")
peak = statistics.median(report["matmul_flops_per_second"] for report in runs["etude"])


def step_seconds(report):
    """The process's median step: Etude prints it, the peer prints all of its steps too."""
    return report["median"] if "median" in report else report["seconds"]


print("| | median step | tokens a second | share of the measured bfloat16 product peak | peak device memory |")
print("|---|---|---|---|---|")
names = {"etude": "Etude", "eager": "PyTorch eager", "compiled": "PyTorch compiled"}
for key, name in names.items():
    if key not in runs:
        print(f"| {name} | — | — | — | — |")
        continue
    seconds = statistics.median(step_seconds(report) for report in runs[key])
    rate = ROWS * CONTEXT / seconds
    if key == "etude":
        said = statistics.median(report["tokens_per_second"] for report in runs[key])
        assert abs(said / rate - 1) < 0.01, f"the preset is another shape by now: {said} and {rate}"
    held = [report["peak_device_mb"] for report in runs[key] if "peak_device_mb" in report]
    memory = f"{max(held):,.0f} MB" if held else "—"
    print(f"| {name} | {1000 * seconds:.1f} ms | {rate:,.0f} | {rate * FLOPS / peak:.1%} | {memory} |")
print(f"\nMeasured peak: {peak / 1e12:,.1f} Tflop/s in bfloat16.")
PYTHON

say "done: parity holds; the table goes into docs/benchmarks.md"
nvidia-smi -L >&2 2>/dev/null || true
