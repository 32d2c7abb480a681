#!/usr/bin/env python3
"""Writes the PEFT adapters that the LoRA tests of `etude-model` and `etude-train` read.

Each folder `crates/model/tests/goldens/lora_*/` is an adapter folder as PEFT saves it, for one of the
tiny random models beside it (scripts/goldens/model.py), plus `golden.safetensors`:

    logits        (2, 17, 96) f32, of the base with the adapter, on the base golden's `input_ids`
    loss          () f32, mean over the base golden's supervised `targets`
    grad.NAME     f32, gradients of `loss`, under the adapter file's names
    train_ids     (20, 4, 18) int64, train_losses (20) f32: AdamW (lr 0.001, betas 0.9 and 0.95, eps 1e-8,
                  weight decay 0.01 on matrices, gradients clipped to norm 1) from the folder's adapter on,
                  a batch a step, column t predicting column t + 1 (only where the adapter can be trained).
                  The rate is low because a high one makes these loud little models chaotic: at 0.01,
                  weights off by a part in ten million are losses off by 0.2 twenty steps later

The adapters are not at their start: B is random, so that every part of the update shows.

Usage: python scripts/goldens/lora.py [NAME ...]
Needs: torch 2.11, transformers 5.23, peft 0.21, safetensors.
"""

import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

GOLDENS = Path(__file__).resolve().parents[2] / "crates/model/tests/goldens"
STEPS, ROWS, COLS, VOCAB = 20, 4, 18, 96
COPIES = ("model.embed_tokens.weight", "lm_head.weight")

# Name: base, settings, whether Etude can go on training it (one rank for all).
CASES = {
    "lora_llama": ("llama", dict(r=4, lora_alpha=8, target_modules="all-linear"), True),
    # A fused layer of queries, keys and values; `c_proj` by a longer name means one of two.
    "lora_gpt2": (
        "gpt2",
        dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["c_attn", "mlp.c_proj"]),
        True,
    ),
    # Parts of stacked layers alone, ranks of their own, modules trained whole.
    "lora_qwen2": (
        "qwen2",
        dict(
            r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
            rank_pattern={"v_proj": 2}, alpha_pattern={"layers.1.mlp.down_proj": 9},
            modules_to_save=["lm_head", "norm"],
        ),
        False,
    ),
    "lora_llama_bias_scaled": (
        "llama_bias_scaled",
        dict(r=2, lora_alpha=4, target_modules=["k_proj", "o_proj", "gate_proj"], modules_to_save=["embed_tokens"]),
        True,
    ),
    # DoRA: parts of stacked layers, with biases; and matrices that lie transposed.
    "lora_qwen2_dora": (
        "qwen2",
        dict(r=4, lora_alpha=6, use_dora=True, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
        True,
    ),
    "lora_gpt2_dora": (
        "gpt2",
        dict(r=3, lora_alpha=5, use_dora=True, target_modules=["c_attn", "c_fc"]),
        True,
    ),
    # The output layer, which Etude merges and does not train.
    "lora_llama_head": ("llama", dict(r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"]), False),
    # Modules that Etude stacks with others, by a part of a path; a dot of a pattern is any character to PEFT.
    "lora_llama_whole": (
        "llama",
        dict(
            r=2, lora_alpha=4, target_modules=["o_proj"], alpha_pattern={"self_attn.o.proj": 9},
            modules_to_save=["gate_proj", "layers.1.self_attn.v_proj", "layers.0.mlp.up_proj"],
        ),
        False,
    ),
    # The same and the embedding, each of a base that has one matrix for both.
    "lora_llama_tied_head": ("llama_tied", dict(r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"]), False),
    "lora_llama_tied_table": (
        "llama_tied",
        dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        False,
    ),
    # Kept alike in training, the two are written both and one is named.
    "lora_llama_tied_kept": (
        "llama_tied",
        dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
        False,
    ),
    # An embedding's update lies the other way round; keys of a pattern are regular expressions.
    "lora_llama_embedding": (
        "llama",
        dict(
            r=3, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "embed_tokens"],
            alpha_pattern={r"layers\.[1-9]\..*": 9}, rank_pattern={"^model.layers.0.self_attn.q_proj$": 2},
        ),
        False,
    ),
    "lora_gpt2_embedding": ("gpt2", dict(r=2, lora_alpha=3, target_modules=["wte", "wpe", "c_fc"]), False),
    "lora_llama_tied_embedding": (
        "llama_tied",
        dict(r=2, lora_alpha=4, target_modules=["q_proj", "embed_tokens"]),
        False,
    ),
}  # fmt: skip


@torch.no_grad()
def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if "magnitude" in name:
            parameter.mul_(1 + 0.3 * noise)
        elif "lora_" in name:
            parameter.copy_(0.4 * noise)
        else:
            parameter.add_(0.2 * noise)


def mean_loss(model, ids, targets):
    logits = model(ids, use_cache=False).logits
    return logits, F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=-100)


def saved_name(name):
    """A parameter's name in the adapter file."""
    name = name.replace(".modules_to_save", "").replace(".default", "")
    return name.replace("magnitude_vector.weight", "magnitude_vector")


def train(model, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB, (STEPS, ROWS, COLS), generator=generator)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() == 2]
    vectors = [p for p in trained if p.dim() != 2]
    groups = [dict(params=matrices, weight_decay=0.01), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.001, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for batch in ids:
        optimizer.zero_grad()
        _, loss = mean_loss(model, batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return dict(train_ids=ids, train_losses=torch.stack(losses))


def write(name, base, settings, trainable, seed):
    folder = GOLDENS / name
    shutil.rmtree(folder, ignore_errors=True)
    example = load_file(GOLDENS / base / "golden.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(GOLDENS / base, attn_implementation="eager")
    config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(model, config).eval()
    randomize(model, seed)
    # What the folder names as its base is a path of its own tree, so that it can be loaded from there.
    model.peft_config["default"].base_model_name_or_path = f"../{base}"
    model.save_pretrained(folder, save_embedding_layers=True if name.endswith("whole") else "auto")
    (folder / "README.md").unlink(missing_ok=True)
    edit_config(folder / "adapter_config.json")

    logits, loss = mean_loss(model, example["input_ids"], example["targets"])
    loss.backward()
    golden = dict(logits=logits.detach(), loss=loss.detach())
    saved = load_file(folder / "adapter_model.safetensors")
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = saved_name(parameter_name)
            assert key in saved and parameter.grad.abs().max() > 1e-6, parameter_name
            golden[f"grad.{key}"] = parameter.grad.clone()
    # PEFT saves the base's own output layer beside an update of it, and here its embedding on request.
    untrained = {key for key in saved if f"grad.{key}" not in golden}
    assert all("base_layer" in key or key.endswith(COPIES) for key in untrained), untrained
    model.zero_grad()
    if trainable:
        golden |= train(model, seed)
    golden = {k: v.contiguous() for k, v in golden.items()}
    about = dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__, seed=seed)
    save_file(golden, folder / "golden.safetensors", metadata={"about": json.dumps(about)})
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name:22} {size:7} bytes  loss {golden['loss']:.4f}")


def edit_config(path):
    """Sorted lists: PEFT keeps sets, whose order changes from run to run."""
    config = json.loads(path.read_text())
    for key, value in config.items():
        if isinstance(value, list):
            config[key] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main():
    wanted = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for index, (name, case) in enumerate(CASES.items()):
        if not wanted or name in wanted:
            write(name, *case, seed=7000 + index)


if __name__ == "__main__":
    main()
