#!/usr/bin/env python3
"""The peer in `compare_published.py`: a published model in Transformers and PEFT, driven line by line.

    python published_peer.py train MODEL --rows 4 --cols 256 --supervised 32 --lora-rank 8
    python published_peer.py generate MODEL --prompt-tokens 512 --tokens 64
    python published_peer.py answer MODEL --prompt TEXT          from process start to the end of the answer

Each line `go K` on standard input does the work K times and prints one JSON line: `seconds` and `loss` of each
step, or `prefill` and `per_token` of each time. Training is what a careful user writes: fused attention, fused
AdamW, clipping, gradients set to none; labels of -100 where nothing is supervised. In float32, or --dtype.
"""

import argparse
import json
import sys
import time
import warnings


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "generate", "answer"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--cols", type=int, default=256)
    parser.add_argument("--supervised", type=int, default=256)
    parser.add_argument("--lora-rank", type=int)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", default="What is the capital of France?")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    return parser.parse_args()


def load(args):
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    return torch, transformers, transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))


def training(args):
    torch, _, model = load(args)
    if args.lora_rank:
        import peft

        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=args.lora_rank, lora_alpha=2 * args.lora_rank, target_modules="all-linear")
        model = peft.get_peft_model(model, lora)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step():
        start = time.perf_counter()
        ids = torch.randint(model.config.vocab_size, (args.rows, args.cols))
        labels = ids.clone()
        labels[:, : args.cols - args.supervised] = -100
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return time.perf_counter() - start, loss.item()

    def turn(times):
        done = [step() for _ in range(times)]
        return {"seconds": [s for s, _ in done], "loss": [loss for _, loss in done]}

    return turn


def generating(args):
    torch, transformers, model = load(args)
    model.eval()
    ids = torch.randint(model.config.vocab_size, (1, args.prompt_tokens))

    class Clock(transformers.LogitsProcessor):
        """Notes when the logits of each new token are there."""

        def __init__(self):
            self.times = []

        def __call__(self, input_ids, scores):
            self.times.append(time.perf_counter())
            return scores

    @torch.inference_mode()
    def once():
        clock = Clock()
        start = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.tokens, min_new_tokens=args.tokens,
            do_sample=False, logits_processor=transformers.LogitsProcessorList([clock]),
        )  # fmt: skip
        first, last = clock.times[0], clock.times[-1]
        return first - start, (last - first) / (args.tokens - 1)

    def turn(times):
        done = [once() for _ in range(times)]
        return {"prefill": [p for p, _ in done], "per_token": [t for _, t in done]}

    return turn


def answer(args):
    torch, transformers, model = load(args)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    messages = [{"role": "user", "content": args.prompt}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    print(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main():
    args = parse()
    if args.what == "answer":
        return answer(args)
    turn = training(args) if args.what == "train" else generating(args)
    for line in sys.stdin:
        print(json.dumps(turn(int(line.split()[1]))), flush=True)


if __name__ == "__main__":
    main()
