#!/usr/bin/env python3
"""Writes the reference numbers for the optimizers and the training step of `etude-train`.

`crates/train/tests/goldens/adamw.safetensors`, three cases, each key `CASE/…`:

    plain      the optimizer alone: three parameters, given gradients, no model
               start.NAME, grad.NAME (5, …), after.NAME (5, …), grad_norm (5,)
    gpt2       five steps of the model folders `gpt2` and `nanochat` of the model crate's goldens
    nanochat   input_ids and targets (5, 2, 17), loss (5,), grad_norm (5,) before clipping,
               final.NAME

by `torch.optim.AdamW(fused=True)` after `clip_grad_norm_`, with the settings in the file's
metadata (a JSON text under `about`); decay falls on parameters of two or more dimensions only.

`crates/train/tests/goldens/muon.safetensors`, for matrices named by their shape:

    start.NAME, grad.NAME (3, rows, cols), direction.NAME (3, rows, cols) the orthogonalized
    update before learning rate and scale, after.NAME (3, rows, cols)

Usage: python scripts/goldens/optim.py     (after scripts/goldens/model.py)
Needs: torch 2.11, transformers 5.23, safetensors.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional as F

CRATES = Path(__file__).resolve().parents[2] / "crates"
MODELS = CRATES / "model/tests/goldens"
OUT = CRATES / "train/tests/goldens"
IGNORE = -100

# GPT-2's key biases have no effect: their true gradient is zero and the computed one is rounding
# noise, which Adam with a tiny epsilon would blow up to full steps. Hence a larger one for models.
ADAMW = dict(
    lr=3e-3, beta1=0.9, beta2=0.95, eps_plain=1e-8, eps_model=1e-5, weight_decay=0.1, clip=1.0,
    steps=5,
)  # fmt: skip
MUON = dict(lr=0.02, momentum=0.95, weight_decay=0.1, newton_schulz_steps=5, eps=1e-7, steps=3)
QUINTIC = (3.4445, -4.7750, 2.0315)
MUON_SHAPES = [(16, 16), (12, 30), (30, 12), (1, 9)]


def adamw(parameters, eps):
    decayed = [p for p in parameters if p.dim() >= 2]
    others = [p for p in parameters if p.dim() < 2]
    groups = [
        dict(params=decayed, weight_decay=ADAMW["weight_decay"]),
        dict(params=others, weight_decay=0.0),
    ]
    betas = (ADAMW["beta1"], ADAMW["beta2"])
    return torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=betas, eps=eps, fused=True)


def clip(parameters):
    return torch.nn.utils.clip_grad_norm_(parameters, ADAMW["clip"]).detach()


def adamw_plain(generator):
    """Given gradients: at first larger than the clipping norm, then smaller, one of them zero."""
    shapes = {"matrix": (5, 7), "vector": (7,), "cube": (2, 3, 4)}
    start = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    parameters = {n: torch.nn.Parameter(v.clone()) for n, v in start.items()}
    optimizer = adamw(list(parameters.values()), ADAMW["eps_plain"])
    grads, after, norms = {n: [] for n in shapes}, {n: [] for n in shapes}, []
    for step in range(ADAMW["steps"]):
        for name, parameter in parameters.items():
            grad = torch.randn(shapes[name], generator=generator) * 0.4 ** (step + 1)
            parameter.grad = grad if (step, name) != (2, "vector") else torch.zeros_like(grad)
            grads[name].append(parameter.grad.clone())
        norms.append(clip(list(parameters.values())))
        optimizer.step()
        for name, parameter in parameters.items():
            after[name].append(parameter.detach().clone())
    assert max(norms) > ADAMW["clip"] > min(norms), "both sides of the limit must be tried"
    out = {f"start.{n}": v for n, v in start.items()} | {"grad_norm": torch.stack(norms)}
    for name in shapes:
        out |= {f"grad.{name}": torch.stack(grads[name]), f"after.{name}": torch.stack(after[name])}
    return out


def adamw_model(name, generator):
    """A few whole training steps: forward, mean loss, backward, clip, update."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name).train()
    vocab = model.config.vocab_size
    shape = (ADAMW["steps"], 2, 17)
    input_ids = torch.randint(vocab, shape, generator=generator)
    targets = torch.full_like(input_ids, IGNORE)
    targets[..., :-1] = input_ids[..., 1:]
    targets[:, 0, :4] = IGNORE
    parameters = list(model.parameters())
    optimizer = adamw(parameters, ADAMW["eps_model"])
    losses, norms = [], []
    for ids, wanted in zip(input_ids, targets):
        logits = model(ids, use_cache=False).logits
        loss = F.cross_entropy(logits.view(-1, vocab), wanted.view(-1), ignore_index=IGNORE)
        loss.backward()
        norms.append(clip(parameters))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    out = dict(input_ids=input_ids, targets=targets)
    out |= dict(loss=torch.stack(losses), grad_norm=torch.stack(norms))
    return out | {f"final.{n}": p.detach().clone() for n, p in model.named_parameters()}


def orthogonalize(update):
    """Newton-Schulz towards the nearest semi-orthogonal matrix, in float32.

    The quintic of K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks"
    (2024). It iterates on the wide orientation, whose Gram matrix is the smaller one.
    """
    a, b, c = QUINTIC
    tall = update.size(0) > update.size(1)
    x = update.T if tall else update
    x = x / (x.norm() + MUON["eps"])
    for _ in range(MUON["newton_schulz_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def muon_step(parameter, grad, buffer):
    """One step: Nesterov momentum, orthogonalization, decoupled decay, then the update.

    Momentum is the running mean `m = 0.95 m + 0.05 g` and the direction `0.05 g + 0.95 m`. The form
    `m = 0.95 m + g`, `g + 0.95 m` is the same up to a factor, which the orthogonalization removes.
    """
    beta, lr = MUON["momentum"], MUON["lr"]
    buffer.mul_(beta).add_(grad, alpha=1 - beta)
    direction = orthogonalize((1 - beta) * grad + beta * buffer)
    rows, cols = parameter.shape  # (outputs, inputs)
    parameter.mul_(1 - lr * MUON["weight_decay"])
    parameter.sub_(direction, alpha=lr * max(1.0, rows / cols) ** 0.5)
    return direction


def muon(generator):
    out = {}
    for shape in MUON_SHAPES:
        name = f"{shape[0]}x{shape[1]}"
        start = torch.randn(shape, generator=generator)
        grads = torch.randn((MUON["steps"], *shape), generator=generator) * 0.1
        parameter, buffer = start.clone(), torch.zeros(shape)
        after, directions = [], []
        for grad in grads:
            directions.append(muon_step(parameter, grad, buffer))
            after.append(parameter.clone())
        singular = torch.linalg.svdvals(directions[-1])
        assert singular.min() > 0.3 and singular.max() < 1.3, singular
        out |= {f"start.{name}": start, f"grad.{name}": grads}
        out |= {f"after.{name}": torch.stack(after), f"direction.{name}": torch.stack(directions)}
    return out


def save(name, tensors, settings):
    path = OUT / name
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    # One entry: safetensors writes several in no fixed order, and the files should not change.
    metadata = {"about": json.dumps(versions | {"settings": settings})}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    path.chmod(0o644)
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(2024)
    tensors = {f"plain/{k}": v for k, v in adamw_plain(generator).items()}
    for name in ("gpt2", "nanochat"):
        case = adamw_model(name, generator)
        print(name, "losses", case["loss"].tolist(), "norms", case["grad_norm"].tolist())
        tensors |= {f"{name}/{k}": v for k, v in case.items()}
    save("adamw.safetensors", tensors, ADAMW)
    save("muon.safetensors", muon(generator), MUON | {"coefficients": QUINTIC})


if __name__ == "__main__":
    main()
