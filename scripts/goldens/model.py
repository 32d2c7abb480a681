#!/usr/bin/env python3
"""Writes the reference model folders that the parity tests of `etude-model` read.

Each folder under `crates/model/tests/goldens/` is a model folder as `transformers` saves it, with
random weights from a fixed seed, plus `golden.safetensors`:

    input_ids   (2, 17) int64     targets  (2, 17) int64, already shifted, -100 = not supervised
    logits      (2, 17, 96) f32   loss     () f32, mean over the supervised targets
    grad.NAME   f32, the gradient of `loss`, under the checkpoint's own names and layouts
    prompt      (7,) int64        greedy   (12,) int64, the continuation with a KV cache
    logits_f64, loss_f64          where the reference truly computes in float64 (GPT-2; the RMS
                                  norms and rotary tables of the others are float32 throughout)

`gpt2_bare` holds the weights of `gpt2` and no gradients. `llama_f16` and `qwen2_bf16` are stored in those
formats; their numbers were computed in float32 from the stored weights.

Nothing is left at a neutral value: norm weights are not ones, biases not zeros, output
projections not zero, epsilons large enough to be seen. So a swapped, skipped or transposed
parameter changes the numbers. Before anything is written, the script checks that the reference
agrees with itself: two attention implementations, the folder read back, cache or no cache.

Usage: python scripts/goldens/model.py [NAME ...]
Needs: torch 2.11, transformers 5.23, safetensors.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

OUT = Path(__file__).resolve().parents[2] / "crates/model/tests/goldens"
ROWS, COLS, VOCAB, WIDTH = 2, 17, 96, 24
PROMPT, CONTINUATION = 7, 12
IGNORE = -100
GAIN = 1.6

# Shared by every family but GPT-2, which has names of its own. No token is special: a pad token
# would silence its row of the embedding's gradient, an end token would cut the continuation.
SHARED = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-3,
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
LLAMA3_SCALING = dict(
    # With 8-wide heads these put one frequency in the untouched band, one in the smoothed band
    # and two in the stretched band.
    rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
# Stored in less than float32.
NARROW = dict(llama_f16=torch.float16, qwen2_bf16=torch.bfloat16)


def default_rope(theta):
    return dict(rope_type="default", rope_theta=theta)


def configs():
    """Every golden's name and configuration."""
    t = transformers
    gpt2 = dict(
        vocab_size=VOCAB, n_positions=32, n_embd=WIDTH, n_layer=2, n_head=4, n_inner=40,
        activation_function="gelu_new", layer_norm_epsilon=1e-3, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    return {
        "llama": t.LlamaConfig(**SHARED, rope_parameters=default_rope(10000.0)),
        "llama_tied": t.LlamaConfig(
            **SHARED, tie_word_embeddings=True, rope_parameters=default_rope(300.0)
        ),
        "llama_sharded": t.LlamaConfig(**SHARED, rope_parameters=default_rope(10000.0)),
        # Biases everywhere, heads whose width is not hidden_size / heads, a large epsilon, and the
        # rotary settings as transformers 4 spells them (see `spell_as_version_4`).
        "llama_bias_scaled": t.LlamaConfig(
            **(SHARED | dict(rms_norm_eps=1e-2, intermediate_size=32)), attention_bias=True,
            mlp_bias=True, head_dim=8, rope_parameters=LLAMA3_SCALING,
        ),  # fmt: skip
        "gpt2": t.GPT2Config(**gpt2),
        # The same weights under the names of the first published GPT-2 files.
        "gpt2_bare": t.GPT2Config(**gpt2),
        "nanochat": t.NanoChatConfig(
            **(SHARED | dict(intermediate_size=64)),
            final_logit_softcapping=15.0, rope_parameters=default_rope(10000.0),
        ),  # fmt: skip
        # Grouped heads, so that the norms of queries and keys differ in width.
        "olmo2": t.Olmo2Config(**SHARED, rope_parameters=default_rope(500.0)),
        "qwen2": t.Qwen2Config(**SHARED, rope_parameters=default_rope(1000.0)),
        "qwen3": t.Qwen3Config(
            **(SHARED | dict(num_hidden_layers=3, intermediate_size=24)), head_dim=8,
            tie_word_embeddings=True, rope_parameters=default_rope(10000.0),
        ),  # fmt: skip
        # Five tokens of window, less than the 17 of the batch and the 19 of the continuation.
        "mistral": t.MistralConfig(
            **SHARED, sliding_window=5, rope_parameters=default_rope(10000.0)
        ),
        "llama_linear": t.LlamaConfig(
            **SHARED, rope_parameters=dict(rope_type="linear", rope_theta=300.0, factor=3.0)
        ),
        "llama_f16": t.LlamaConfig(**SHARED, rope_parameters=default_rope(10000.0)),
        "qwen2_bf16": t.Qwen2Config(
            **SHARED, tie_word_embeddings=True, rope_parameters=default_rope(1000.0)
        ),
    }


@torch.no_grad()
def randomize(model, seed, dtype):
    """Fills every parameter with values of `dtype` that no other parameter could stand in for."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            is_scale = name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_scale else 0.2 * noise)
        elif "embed" in name or "wte" in name or "wpe" in name:
            parameter.copy_(0.6 * noise)
        else:
            # A bit more than unit variance out for unit variance in, so that the layers and not the
            # last token's embedding decide; the head is louder, for logits of a few units.
            gain = 3.0 if "lm_head" in name else GAIN
            parameter.copy_(gain * noise / WIDTH**0.5)
        parameter.copy_(parameter.to(dtype))


def example(seed):
    """One batch: token ids, and shifted targets of which some are not supervised."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(VOCAB, (ROWS, COLS), generator=generator)
    targets = torch.full_like(input_ids, IGNORE)
    targets[:, :-1] = input_ids[:, 1:]
    targets[0, :5] = IGNORE  # a prompt
    targets[1, 9] = IGNORE  # a hole
    targets[1, -3:] = IGNORE  # padding
    return input_ids, targets


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=IGNORE)


@torch.no_grad()
def continue_greedily(model, prompt):
    """The continuation with a cache, or None where it would test little.

    That is a near tie, on which two correct programs may differ, and going in circles.
    """
    ids, cache, fresh, chosen = prompt[None], None, prompt[None], []
    for _ in range(CONTINUATION):
        out = model(fresh, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        without_cache = model(ids, use_cache=False).logits[0, -1]
        torch.testing.assert_close(out.logits[0, -1], without_cache, atol=2e-5, rtol=0)
        best = out.logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < 1e-3:
            return None
        fresh = best.indices[:1][None]
        ids = torch.cat([ids, fresh], dim=1)
        chosen.append(int(fresh))
    return torch.tensor(chosen) if len(set(chosen)) >= 6 else None


def settle(model, seed, dtype):
    """Fills the weights and the batch, from the first seed whose greedy continuation is telling."""
    for attempt in range(seed, seed + 100):
        randomize(model, attempt, dtype)
        input_ids, targets = example(attempt)
        prompt = input_ids[0, :PROMPT].clone()
        greedy = continue_greedily(model, prompt)
        if greedy is not None:
            return dict(input_ids=input_ids, targets=targets, prompt=prompt, greedy=greedy)
    raise RuntimeError("no seed gives a continuation worth testing")


def reference(model, seed, dtype):
    """Everything that goes into `golden.safetensors`."""
    golden = settle(model, seed, dtype)
    input_ids, targets = golden["input_ids"], golden["targets"]
    logits = model(input_ids, use_cache=False).logits
    loss = cross_entropy(logits, targets)
    loss.backward()
    golden |= dict(logits=logits.detach(), loss=loss.detach())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name
        golden[f"grad.{name}"] = parameter.grad.clone()

    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        other = model(input_ids, use_cache=False).logits
    torch.testing.assert_close(golden["logits"], other, atol=2e-5, rtol=0)
    if model.config.model_type == "gpt2":
        with torch.no_grad():
            exact = model.double()(input_ids, use_cache=False).logits
        golden |= dict(logits_f64=exact, loss_f64=cross_entropy(exact, targets))
        model.float()
    model.set_attn_implementation("eager")
    return golden


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


def spell_as_version_4(folder):
    """`rope_theta` and `rope_scaling` beside each other and `torch_dtype`, as most folders have."""

    def edit(config):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype")

    edit_json(folder / "config.json", edit)


def spell_as_first_gpt2(folder):
    """No `transformer.` prefix, and each layer's causal mask stored as if it were a weight."""
    path = folder / "model.safetensors"
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(32, 32).tril()[None, None]
    save_file(tensors, path, metadata={"format": "pt"})


def write(name, config, seed):
    """Builds one model, writes its folder, and checks that the folder gives the same numbers."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    config.dtype = "float32"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    dtype = NARROW.get(name, torch.float32)
    golden = reference(model.eval(), seed, dtype)
    model.to(dtype)
    # A small limit for the sharded one: eight or so files and an index.
    model.save_pretrained(folder, max_shard_size="9KB" if name == "llama_sharded" else "5GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "llama_bias_scaled":
        spell_as_version_4(folder)
    if name == "gpt2_bare":
        spell_as_first_gpt2(folder)
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, seed=seed)
    # One entry: safetensors writes several in no fixed order, and the files should not change.
    metadata = {"about": json.dumps(versions)}
    if name == "gpt2_bare":  # gradients and exact logits are in the folder `gpt2`
        golden = {k: v for k, v in golden.items() if "grad." not in k and "f64" not in k}
    golden = {k: v.contiguous() for k, v in golden.items()}
    save_file(golden, folder / "golden.safetensors", metadata=metadata)

    again = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        logits = again(golden["input_ids"], use_cache=False).logits
    torch.testing.assert_close(logits, golden["logits"], atol=1e-6, rtol=0)
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(
        f"{name:18} {sum(p.numel() for p in model.parameters()):6} parameters {size:7} bytes  "
        f"loss {golden['loss']:.4f}  largest logit {golden['logits'].abs().max():.2f}"
    )
    return size


def main():
    wanted = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    total = 0
    for index, (name, config) in enumerate(configs().items()):
        # Both GPT-2 folders hold the same weights.
        seed = 1000 * (5 if name == "gpt2_bare" else index + 1)
        if not wanted or name in wanted:
            total += write(name, config, seed)
    print(f"{total} bytes in {OUT}")


if __name__ == "__main__":
    main()
