#!/usr/bin/env python3
"""Training speed and memory of Etude beside PyTorch, so measured that a machine's noise cancels.

Both programs stay up, each with its model in memory, and take turns: `go K` runs K optimizer steps
of the same fixed shape. A slow minute of the machine then hits both halves of a pair, and the ratio
inside a pair is what counts. Who goes first alternates. The first turns warm up and are left out.

    python compare_training.py --etude target/release/etude
    python compare_training.py --etude target/release/etude --compile     beside torch.compile
    python compare_training.py --null           PyTorch beside PyTorch: how far noise alone goes

While one works, the other must not: an OpenMP thread that spins while it waits for work takes a
core from its rival. The share of a core that each one used in the other's turns is measured and
printed (GNU OpenMP, which libtorch brings, spins for a moment and then sleeps: nothing to set, and
OMP_WAIT_POLICY=passive would slow both down). Peak memory is VmHWM of each process.

Needs Linux, and torch in the Python that runs this (or --python).
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VOCAB = 4096
IDLE_LIMIT = 0.03


class Contestant:
    """One of the two programs, driven over its standard input."""

    def __init__(self, name, command, threads):
        self.name = name
        # One thread per core and no more, whatever the environment says.
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.seconds, self.first_loss, self.idle_cpu, self.idle_wall = [], None, 0.0, 0.0

    def go(self, steps):
        """Median seconds of one step over `steps` steps."""
        try:
            self.process.stdin.write(f"go {steps}\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            sys.exit(f"{self.name} stopped answering: see its message above")
        assert len(answer["seconds"]) == steps, f"{self.name} ran another number of steps"
        if self.first_loss is None:
            self.first_loss = answer["loss"][0]
        assert all(map(math.isfinite, answer["loss"])), f"{self.name}: the loss is not finite"
        return statistics.median(answer["seconds"])

    def cpu(self):
        """Processor seconds used so far by all of its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise KeyError("VmHWM")

    def idle_share(self):
        return self.idle_cpu / max(self.idle_wall, 1e-9)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait(timeout=60)


def turn(active, idle, steps):
    """One turn of `active`, while the processor time of `idle` is watched."""
    cpu, wall = idle.cpu(), time.perf_counter()
    seconds = active.go(steps)
    idle.idle_cpu += idle.cpu() - cpu
    idle.idle_wall += time.perf_counter() - wall
    return seconds


def race(etude, peer, pairs, steps, warmup):
    for contestant in (etude, peer):
        contestant.go(warmup)
        # Random tokens and small initial weights: the first loss must be that of a uniform guess,
        # or the contestant does something else than the agreed work.
        expected = math.log(VOCAB)
        assert abs(contestant.first_loss - expected) < 0.5, (contestant.name, contestant.first_loss)
    for pair in range(pairs):
        order = (etude, peer) if pair % 2 == 0 else (peer, etude)
        for active, idle in (order, order[::-1]):
            active.seconds.append(turn(active, idle, steps))
        done = f"pair {pair + 1}/{pairs}: {etude.seconds[-1]:.3f} s and {peer.seconds[-1]:.3f} s"
        print(done, file=sys.stderr, flush=True)


def summarize(etude, peer, args):
    ratios = [p / e for e, p in zip(etude.seconds, peer.seconds)]
    result = dict(
        pairs=args.pairs, steps_each=args.steps, threads=args.threads,
        speed_ratio=dict(median=statistics.median(ratios), min=min(ratios), max=max(ratios)),
        load_average=os.getloadavg()[0],
    )  # fmt: skip
    for key, contestant in (("etude", etude), ("pytorch", peer)):
        result[key] = dict(
            name=contestant.name, seconds=statistics.median(contestant.seconds),
            fastest=min(contestant.seconds), slowest=max(contestant.seconds),
            peak_mb=round(contestant.peak_mb(), 1), idle_share=round(contestant.idle_share(), 4),
            turns=[round(s, 4) for s in contestant.seconds],
        )  # fmt: skip
    result["memory_ratio"] = result["etude"]["peak_mb"] / result["pytorch"]["peak_mb"]
    return result


def markdown(result):
    ratio = result["speed_ratio"]
    lines = [
        "| | median step | fastest | slowest | peak memory | core used while idle |",
        "|---|---|---|---|---|---|",
    ]
    for key in ("etude", "pytorch"):
        c = result[key]
        lines.append(
            f"| {c['name']} | {c['seconds']:.3f} s | {c['fastest']:.3f} s | {c['slowest']:.3f} s "
            f"| {c['peak_mb']:,.0f} MB | {c['idle_share']:.1%} |"
        )
    lines += [
        "",
        f"Speed ratio, pair by pair: **{ratio['median']:.3f}** (median of {result['pairs']} pairs "
        f"of {result['steps_each']} steps, from {ratio['min']:.3f} to {ratio['max']:.3f}; above 1, "
        f"{result['etude']['name']} is faster). Memory ratio: **{result['memory_ratio']:.2f}**. "
        f"{result['threads']} threads.",
    ]
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--etude", default="target/release/etude", help="the etude binary")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first pair")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="PyTorch with torch.compile")
    parser.add_argument("--null", action="store_true", help="PyTorch against itself")
    parser.add_argument("--markdown", action="store_true", help="a table instead of JSON")
    return parser.parse_args()


def main():
    args = parse()
    torch_step = [args.python, str(HERE / "pytorch_step.py"), "--stdin"]
    torch_step += ["--threads", str(args.threads)]
    etude_step = shlex.split(args.etude) + ["bench", "train", "--json", "--stdin"]
    if not args.null and not Path(etude_step[0]).is_file():
        sys.exit(f"no etude binary at {etude_step[0]}: cargo build --release, or --etude PATH")
    if os.getloadavg()[0] > 0.5:
        load = f"{os.getloadavg()[0]:.1f}"
        print(f"warning: the machine is busy (load {load}); figures will suffer", file=sys.stderr)

    name = "PyTorch compiled" if args.compile else "PyTorch eager"
    peer = Contestant(name, torch_step + ["--compile"] * args.compile, args.threads)
    first = ("PyTorch again", torch_step) if args.null else ("Etude", etude_step)
    etude = Contestant(*first, args.threads)
    try:
        race(etude, peer, args.pairs, args.steps, args.warmup)
        result = summarize(etude, peer, args)
        etude.close()
        peer.close()
    finally:
        for contestant in (etude, peer):
            contestant.process.kill()
    for contestant in (etude, peer):
        if contestant.idle_share() > IDLE_LIMIT:
            share = f"{contestant.idle_share():.1%}"
            print(
                f"warning: {contestant.name} used {share} of a core in its rival's turns",
                file=sys.stderr,
            )
    print(markdown(result) if args.markdown else json.dumps(result))


if __name__ == "__main__":
    main()
