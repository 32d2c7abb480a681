#!/usr/bin/env python3
"""The peer in the training-speed comparison: one GPT training step in plain PyTorch.

The model is the one of `etude bench train`: GPT-2's layout with 6 layers, 384 wide, 6 heads, a
vocabulary of 4,096, learned positions, biases, tanh GELU, tied embeddings, no dropout, 8 x 256
tokens, float32. The step is what a careful PyTorch user writes: fused attention, fused AdamW with
decay on matrices only, clipping to norm 1, gradients set to none.

    python pytorch_step.py --steps 20              one JSON line, first two steps left out
    python pytorch_step.py --stdin                 for a driver that alternates two programs:
        each line `go K` runs K steps and prints {"seconds": [...], "loss": [...]};
        at the end of input prints {"peak_rss_mb": ...}

The other sizes, `--device cuda` and `--dtype bfloat16` (autocast) serve the check on a GPU.
"""

import argparse
import contextlib
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.out = nn.Linear(n_embd, n_embd)

    def forward(self, x):
        rows, cols, width = x.shape
        q, k, v = self.qkv(x).view(rows, cols, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(rows, cols, width))


class Block(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.norm1 = nn.LayerNorm(n_embd)
        self.attention = Attention(n_embd, n_head)
        self.norm2 = nn.LayerNorm(n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * n_embd, n_embd),
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Gpt(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.tokens = nn.Embedding(args.vocab, args.n_embd)
        self.positions = nn.Embedding(args.context, args.n_embd)
        self.blocks = nn.ModuleList(Block(args.n_embd, args.n_head) for _ in range(args.n_layer))
        self.norm = nn.LayerNorm(args.n_embd)
        self.head = nn.Linear(args.n_embd, args.vocab, bias=False)
        self.head.weight = self.tokens.weight
        residual = 0.02 / (2 * args.n_layer) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                last = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=residual if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, input_ids, targets):
        position = torch.arange(input_ids.size(1), device=input_ids.device)
        x = self.tokens(input_ids) + self.positions(position)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))  # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class Trainer:
    """The model, its optimizer and a stream of random tokens."""

    def __init__(self, args):
        torch.manual_seed(0)
        self.args = args
        raw = Gpt(args).to(args.device)
        self.parameters = list(raw.parameters())
        self.model = torch.compile(raw) if args.compile else raw
        groups = [
            dict(params=[p for p in self.parameters if p.dim() >= 2], weight_decay=0.1),
            dict(params=[p for p in self.parameters if p.dim() < 2], weight_decay=0.0),
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
        self.data = torch.randint(args.vocab, (1_000_000,))
        self.autocast = contextlib.nullcontext()
        if args.dtype != "float32":
            self.autocast = torch.autocast(args.device, dtype=getattr(torch, args.dtype))

    def batch(self):
        starts = torch.randint(len(self.data) - self.args.context - 1, (self.args.batch,))
        rows = torch.stack([self.data[s : s + self.args.context + 1] for s in starts])
        rows = rows.to(self.args.device)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step(self):
        """One optimizer step; the loss stays on the device."""
        input_ids, targets = self.batch()
        with self.autocast:
            loss = self.model(input_ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def run(self, steps):
        """Seconds and loss of each of `steps` steps."""
        seconds, losses = [], []
        for _ in range(steps):
            start = time.perf_counter()
            losses.append(self.step().item())  # sync
            seconds.append(time.perf_counter() - start)
        return seconds, losses


def resident_mb(field):
    """`VmHWM` (peak) or `VmRSS` (now) of this process: getrusage would count the parent's, too."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return round(int(line.split()[1]) / 1024, 1)
    raise KeyError(field)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--stdin", action="store_true", help="run `go K` lines instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    sizes = dict(n_layer=6, n_embd=384, n_head=6, vocab=4096, batch=8, context=256)
    for name, default in sizes.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    return parser.parse_args()


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    imported = resident_mb("VmRSS")
    trainer = Trainer(args)
    if args.stdin:
        for line in sys.stdin:
            command, count = line.split()
            assert command == "go", line
            seconds, losses = trainer.run(int(count))
            print(json.dumps({"seconds": seconds, "loss": losses}), flush=True)
        print(json.dumps({"peak_rss_mb": resident_mb("VmHWM"), "import_rss_mb": imported}))
        return
    trainer.run(2)
    seconds, losses = trainer.run(args.steps)
    report = dict(
        seconds=seconds, loss=losses, median=sorted(seconds)[len(seconds) // 2],
        parameters=sum(p.numel() for p in trainer.parameters), peak_rss_mb=resident_mb("VmHWM"),
        import_rss_mb=imported, torch=torch.__version__, threads=args.threads,
        compiled=args.compile, device=args.device, dtype=args.dtype,
    )  # fmt: skip
    if args.device == "cuda":
        report["peak_device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(report))


if __name__ == "__main__":
    main()
