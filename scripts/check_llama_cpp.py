#!/usr/bin/env python3
"""Asks llama.cpp about a GGUF file of `etude export`, and Etude about the folder that it was made of.

    etude export models/smollm2 smollm2.gguf --format q8_0
    python scripts/check_llama_cpp.py smollm2.gguf models/smollm2 --etude target/release/etude

Ten prompts are continued greedily by 64 tokens, as text and as a user's turn in the model's chat template;
llama.cpp reads weights, tokenizer and template from the file alone. Both must give the same tokens. Where they part,
llama.cpp must have been undecided: the two tokens' log-probabilities no further apart than --tolerance, since it
rounds the other factor of a quantized product as well, and keeps keys and values in float16. What stands after such
a place is another text and is not compared.

Exit status 1 when they differ otherwise. Needs xllamacpp 2026.10 (llama.cpp as a wheel).
"""

import argparse
import json
import subprocess
import sys

import xllamacpp

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Water boils at",
    "def fibonacci(n):",
    "The three laws of motion are",
    "Dear Sir or Madam,",
    "Ingredients: flour, sugar, butter.",
    "In 1969,",
    "Berlin ist die Hauptstadt von",
    "Q: What is 7 times 8?\nA:",
]


def etude(program, model, prompts, tokens, chat):
    """Token ids and text of each greedy continuation."""
    command = [program, "generate", model, "--temperature", "0", "--max-tokens", str(tokens), "--json"]
    command += [part for prompt in prompts for part in ("--prompt", prompt)]
    command += ["--chat"] if chat else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [(made["ids"], made["text"]) for made in json.loads(done.stdout)["generations"]]


def llama_cpp(ask, request, tokens):
    """Token ids and text of the greedy continuation, and at each place the log-probabilities of the likeliest."""
    asked = {"max_tokens": tokens, "temperature": 0.0, "logprobs": True, "top_logprobs": 20, "n_probs": 20}
    made = ask({**request, **asked, "cache_prompt": False})
    if "choices" not in made:
        sys.exit(f"llama.cpp refuses the request: {json.dumps(made)[:500]}")
    choice = made["choices"][0]
    content = choice["logprobs"]["content"]
    places = [{top["id"]: top["logprob"] for top in place["top_logprobs"]} for place in content]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return ([place["id"] for place in content], text), places


def compare(prompt, ours, theirs, places, tolerance):
    """Prints how two continuations go together. Returns whether they do."""
    (ours, our_text), (theirs, their_text) = ours, theirs
    shown = json.dumps(prompt, ensure_ascii=False)[:60]
    # Its list lacks tokens that end inside of a character, its text half a character at the end.
    if our_text.strip(" \n\ufffd") == their_text.strip(" \n\ufffd"):
        print(f"  ok  {shown}: all {len(ours)} tokens alike")
        return True
    for place, (our, their) in enumerate(zip(ours, theirs)):
        if our != their:
            top = places[place]
            gap = max(top.values()) - top.get(our, float("-inf"))
            good = gap <= tolerance
            print(f"  {'ok ' if good else 'NOT'} {shown}: {place} tokens alike, then {gap:.4f} nats apart")
            return good
    good = abs(len(ours) - len(theirs)) <= 1
    print(f"  {'ok ' if good else 'NOT'} {shown}: all {len(ours)} tokens alike" + ("" if good else f", {len(theirs)} there"))
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the GGUF file")
    parser.add_argument("model", help="the folder that it was made of")
    parser.add_argument("--etude", default="etude")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--tolerance", type=float, default=0.05, help="nats; 0.5 is usual for q8_0")
    arguments = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = arguments.file
    params.n_ctx = 1024
    params.n_parallel = 1
    params.warmup = False
    server = xllamacpp.Server(params)

    good = True
    for what, chat in (("as text", False), ("as a user's turn", True)):
        print(what)
        found = etude(arguments.etude, arguments.model, PROMPTS, arguments.tokens, chat)
        for prompt, ours in zip(PROMPTS, found):
            if chat:
                request = {"messages": [{"role": "user", "content": prompt}]}
                theirs, places = llama_cpp(server.handle_chat_completions, request, arguments.tokens)
            else:
                theirs, places = llama_cpp(server.handle_completions, {"prompt": prompt}, arguments.tokens)
            good &= compare(prompt, ours, theirs, places, arguments.tolerance)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
