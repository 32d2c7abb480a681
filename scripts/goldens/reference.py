#!/usr/bin/env python3
"""Writes crates/model/tests/goldens/reference: a tiny random Llama with a tokenizer and a chat template, as
Transformers saves it, and the reference that scripts/make_reference.py makes of it.

Usage: python scripts/goldens/reference.py
Needs: torch 2.11, transformers 5.23, tokenizers.
"""

import subprocess
import sys
from pathlib import Path

import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/model/tests/goldens/reference"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "The capital of France is Paris. Once upon a time, an old woman lived in a village by the sea. "


def main():
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator([TEXT] * 4, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[2], pad_token=SPECIAL[0],
        clean_up_tokenization_spaces=False, chat_template=TEMPLATE,
    )  # fmt: skip

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.3, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    OUT.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(OUT)
    tokenizer.save_pretrained(OUT)
    script = ROOT / "scripts/make_reference.py"
    subprocess.run([sys.executable, script, OUT, OUT / "reference.json"], check=True)


if __name__ == "__main__":
    main()
