#!/usr/bin/env python3
"""Writes the files that the GGUF tests of `etude-model` read, with the `gguf` package.

Under `crates/model/tests/goldens/gguf/`:

    blocks.safetensors  for each number format NAME: `NAME.bytes` (blocks of random bits, their scales
                        finite) and `NAME.values`, what the `gguf` package reads them as; and
                        `source`, float32, whose Q8_0 blocks are `source.Q8_0`
    NAME.gguf           the weights of the folder `crates/model/tests/goldens/NAME`, in float32, laid out
                        as llama.cpp's converter does it
    sentencepiece.gguf  a model of one layer with a SentencePiece BPE trained on a few lines
    tokenizer.json      texts and their ids by the tokenizers in `llama.gguf` and `sentencepiece.gguf`

Usage: python scripts/goldens/gguf_files.py
Needs: gguf 0.19, numpy, safetensors, sentencepiece 0.2, tokenizers 0.23. Run scripts/goldens/model.py before.
"""

import io
import json
import math
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from gguf import GGMLQuantizationType as Format
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

GOLDENS = Path(__file__).resolve().parents[2] / "crates/model/tests/goldens"
OUT = GOLDENS / "gguf"
MODELS = ["gpt2", "llama", "llama_bias_scaled", "qwen2", "qwen3"]

# Where the float16 scales of a block begin, in bytes.
SCALES = {
    Format.Q4_0: [0], Format.Q4_1: [0, 2], Format.Q5_0: [0], Format.Q5_1: [0, 2], Format.Q8_0: [0],
    Format.Q2_K: [80, 82], Format.Q3_K: [108], Format.Q4_K: [0, 2], Format.Q5_K: [0, 2],
    Format.Q6_K: [208], Format.F16: [0], Format.BF16: [], Format.F32: [],
}  # fmt: skip

HF_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
GPT2_NAMES = {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip


def blocks():
    random = np.random.default_rng(17)
    tensors = {}
    for kind, scales in SCALES.items():
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        count = 4 if block_len == 256 else 8 if block_len == 32 else 64
        data = random.integers(0, 256, (count, block_bytes), dtype=np.uint8)
        for at in scales:
            scale = random.standard_normal(count).astype(np.float16)
            data[:, at : at + 2] = scale.view(np.uint8).reshape(count, 2)
        if not scales:
            data = random.standard_normal(count).astype(np.float32)
            data = data.view(np.uint8) if kind == Format.F32 else gguf.quantize(data, kind)
        data = data.reshape(1, -1)
        if kind == Format.F32:
            values = data.view(np.float32)
        elif kind == Format.F16:
            values = data.view(np.float16).astype(np.float32)
        else:
            values = gguf.dequantize(data, kind)
        tensors[f"{kind.name}.bytes"] = np.ascontiguousarray(data.reshape(-1))
        tensors[f"{kind.name}.values"] = values.astype(np.float32).reshape(-1)
    source = random.standard_normal(256).astype(np.float32)
    source[32:64] = 0
    tensors["source"] = source
    tensors["source.Q8_0"] = gguf.quantize(source.reshape(8, 32), Format.Q8_0).reshape(-1)
    save_file(tensors, OUT / "blocks.safetensors")


def neighbours(rows, heads):
    """Rows of queries or keys for llama.cpp's rotary positions, as its converter orders them."""
    shape = rows.shape
    rows = rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return rows.swapaxes(1, 2).reshape(shape)


def llama3_factors(config, rope):
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float32) / width)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for frequency in frequencies:
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        if turns > high:
            factors.append(1)
        elif turns < low:
            factors.append(rope["factor"])
        else:
            smooth = (turns - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def llama_tensors(config, weights):
    permuted = config["model_type"] == "llama"
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    if "lm_head.weight" in weights:
        yield "output.weight", weights["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in HF_NAMES.items():
            for leaf in ["weight", "bias"]:
                values = weights.get(f"model.layers.{layer}.{theirs}.{leaf}")
                if values is None:
                    continue
                if permuted and ours in heads:
                    values = neighbours(values, heads[ours])
                yield f"blk.{layer}.{ours}.{leaf}", values


def gpt2_tensors(config, weights):
    weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
    yield "token_embd.weight", weights["wte.weight"]
    yield "position_embd.weight", weights["wpe.weight"]
    for leaf in ["weight", "bias"]:
        yield f"output_norm.{leaf}", weights[f"ln_f.{leaf}"]
    for layer in range(config["n_layer"]):
        for ours, theirs in GPT2_NAMES.items():
            for leaf in ["weight", "bias"]:
                values = weights[f"h.{layer}.{theirs}.{leaf}"]
                yield f"blk.{layer}.{ours}.{leaf}", values.T if values.ndim == 2 else values


def settings(writer, config):
    writer.add_block_count(config.get("num_hidden_layers") or config["n_layer"])
    writer.add_context_length(config.get("max_position_embeddings") or config["n_positions"])
    writer.add_embedding_length(config.get("hidden_size") or config["n_embd"])
    writer.add_feed_forward_length(config.get("intermediate_size") or config["n_inner"])
    writer.add_head_count(config.get("num_attention_heads") or config["n_head"])
    if config["model_type"] == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or config["rope_scaling"]
    theta = config.get("rope_theta") or rope["rope_theta"]
    writer.add_rope_freq_base(theta)
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config, rope | {"rope_theta": theta}))


TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ r", "1 2", "1 0"]


def vocabulary():
    """Three special tokens, characters, merged tokens, one of a user's own; the rest is filled up."""
    tokens = SPECIAL + [chr(c) for c in range(ord("0"), ord("9") + 1)]
    tokens += [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["Ġ", "Ċ", ".", ","]
    return tokens + [merge.replace(" ", "") for merge in MERGES]


def add_tokenizer(writer, vocab_size):
    tokens = vocabulary()
    types = [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL))
    tokens.append("<think>")
    types.append(4)
    for id in range(len(tokens), vocab_size):
        tokens.append(f"[PAD{id}]")
        types.append(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def tokenizer():
    """The tokenizer of `llama.gguf` as the `tokenizers` package builds it, on one text."""
    tokens = {token: id for id, token in enumerate(vocabulary())}
    engine = Tokenizer(models.BPE(tokens, [tuple(merge.split(" ")) for merge in MERGES]))
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    engine.decoder = decoders.ByteLevel()
    text = "the rain in 1210 the\nthen, 12 rivers."
    ids = engine.encode(text).ids
    assert engine.decode(ids) == text
    return {"text": text, "ids": ids}


LINES = [
    "The rain in Spain stays mainly in the plain.",
    "In 1210 the rivers rose; in 1211 the rain stayed away.",
    "A rose is a rose is a rose, said the plain man in the rain.",
    "Mainly the river stays where the plain is, and the rose where the rain is.",
]


def piece():
    """A model with a SentencePiece tokenizer, and what that package makes of a text."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 20), model_writer=trained, model_type="bpe", vocab_size=340,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, minloglevel=2,
    )  # fmt: skip
    engine = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    size, width, random = engine.vocab_size(), 8, np.random.default_rng(5)
    kinds = [(engine.is_unknown, 2), (engine.is_control, 3), (engine.is_byte, 6)]
    types = [next((kind for is_it, kind in kinds if is_it(id)), 1) for id in range(size)]
    writer = gguf.GGUFWriter(OUT / "sentencepiece.gguf", "llama")
    config = dict(
        model_type="llama", num_hidden_layers=1, max_position_embeddings=32, hidden_size=width,
        intermediate_size=width, num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    )  # fmt: skip
    settings(writer, config)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([engine.id_to_piece(id) for id in range(size)])
    writer.add_token_scores([engine.get_score(id) for id in range(size)])
    writer.add_token_types(types)
    writer.add_bos_token_id(engine.bos_id())
    writer.add_eos_token_id(engine.eos_id())
    writer.add_unk_token_id(engine.unk_id())

    def matrix(*shape):
        return random.standard_normal(shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", matrix(size, width))
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
        writer.add_tensor(f"{name}.weight", matrix(width))
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        writer.add_tensor(f"blk.0.{name}.weight", matrix(width, width))
    finish(writer)
    text = "The rain rose in 1210, said  the plain river:\n\tmañana 雨!"
    ids = engine.encode(text)
    assert engine.decode(ids) == text
    return {"text": text, "ids": ids}


def model(name):
    folder = GOLDENS / name
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    architecture = config["model_type"]
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", architecture)
    writer.add_name(name)
    settings(writer, config)
    vocab_size = config["vocab_size"]
    if name == "llama":
        add_tokenizer(writer, vocab_size)
    tensors = gpt2_tensors if architecture == "gpt2" else llama_tensors
    for tensor, values in tensors(config, weights):
        writer.add_tensor(tensor, np.ascontiguousarray(values))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(exist_ok=True)
    blocks()
    for name in MODELS:
        model(name)
    texts = {"llama": tokenizer(), "sentencepiece": piece()}
    (OUT / "tokenizer.json").write_text(json.dumps(texts) + "\n")
    for file in sorted(OUT.iterdir()):
        file.chmod(0o644)
        print(f"{file.name:28} {file.stat().st_size:7} bytes")


if __name__ == "__main__":
    main()
