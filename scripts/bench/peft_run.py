#!/usr/bin/env python3
"""Fine-tunes a model with PEFT, or whole, on the batches that a recipe of Etude trains on.

    cargo run --release -p etude-finetune --example batches -- RECIPE.toml MODEL > batches.jsonl
    python scripts/bench/peft_run.py MODEL batches.jsonl OUT --lr 5e-4
    etude eval MODEL --adapter OUT --task wiki-description --like RECIPE --limit 200

The peer as a careful user writes it: LoRA of rank 8 and alpha 16 on all linear layers (or --full for all
weights), AdamW without decay, clipping to norm 1, a linear descent of the rate to zero. --init ADAPTER starts
from an adapter folder, --bf16 computes under autocast. Prints the loss of each step and, last, one JSON object
with the seconds of training, and saves the adapter (or the model) in OUT. Needs torch, transformers 5 and peft.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import peft
import torch
import transformers


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("batches", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, help="stop after so many; the rate falls as if all were made")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--init", type=Path)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def load(args):
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    if args.full:
        return model.train()
    if args.init:
        return peft.PeftModel.from_pretrained(model, args.init, is_trainable=True).train()
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    return peft.get_peft_model(model, lora).train()


def main():
    args = parse()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    batches = [json.loads(line) for line in args.batches.open()]
    total = len(batches)
    batches = batches[: args.steps]
    model = load(args)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    start = time.perf_counter()
    for step, batch in enumerate(batches):
        ids, targets = torch.tensor(batch["input_ids"]), torch.tensor(batch["targets"])
        # The model shifts labels itself: the target of a place is the label of the next.
        labels = torch.cat([torch.full_like(targets[:, :1], -100), targets[:, :-1]], 1)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * (1 - step / total)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.4f}, gradient norm {norm.item():.3f}", flush=True)
    seconds = time.perf_counter() - start
    model.save_pretrained(args.out)
    tokens = sum(len(row) for batch in batches for row in batch["input_ids"])
    print(json.dumps(dict(steps=len(batches), tokens=tokens, seconds=round(seconds, 1))))


if __name__ == "__main__":
    main()
