#!/usr/bin/env python3
"""Checks that Etude renders chat templates as `transformers` does, and supervises what it should.

    python scripts/check_templates.py FOLDER [NAME ...]

FOLDER holds templates, in subfolders too: `*.jinja`, `tokenizer_config.json`, `chat_template.json`, or any
other JSON file with a "chat_template". None is part of this repository; real ones are in, for example,

    trl 1.16.0 on PyPI, trl/chat_templates/     Llama 3, 3.1 and 3.2, Qwen2.5 and 3, Gemma 2 and 3, Phi 3
      (pip download --no-deps trl==1.16.0; the wheel's sha256 begins with c4726e139dd40e1a)
    the repository ggml-org/llama.cpp, models/templates/               Mistral Nemo and Small, SmolLM3, …
    the repository huggingface/huggingface.js, packages/jinja/test/    Mistral 7B and many older ones
    tokenizer_config.json of any model folder, such as SmolLM2's as `etude import` writes it

With NAMEs only templates whose path holds one of them are checked. Each goes, with a byte-level tokenizer that
knows the special tokens it names, into a model folder that both programs read. Over a fixed list of
conversations, with and without the generation prompt and with some of the variables that templates ask for:

    text          the same to the last byte, or refused by both, with the message of the template's own
                  `raise_exception`
    prompt ids    the same, where no message spells a special token
    supervision   the segments join to the text, or to the prompt and the answer where the text of both is
                  not the prompt's continuation (instructions that only a last turn of the user has); each supervised stretch begins where the prompt for that turn
                  ends, is what the template writes for that turn when it is the last, and consists of the
                  content and what the template writes around any content up to an end token

A conversation that Etude declines to train on is counted with its reason, as are conversations that it renders
where Python's own operators fail ("lenient"). Exit status 1 when a check fails.
Needs transformers 5 and jinja2; builds Etude's side with cargo.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jinja2
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).resolve().parents[1]
SPECIAL = re.compile(
    r"<\|[^|<>\s'\"]{1,40}\|>|<｜[^｜<>\s'\"]{1,40}｜>|\[/?[A-Z_]{3,20}\]|</?s>|<bos>|<eos>"
    r"|<\|[a-z]+>|<[a-z]+\|>|<[A-Za-z]+[_:][A-Za-z0-9_]+>|<sep>"
)
# bos and eos of the families, by a token that their templates name.
NAMED = [
    ("<|start_header_id|>", "<|begin_of_text|>", "<|eot_id|>"),
    ("<|im_start|>", "<|endoftext|>", "<|im_end|>"),
    ("<start_of_turn>", "<bos>", "<eos>"),
    ("<|end|>", "<s>", "<|endoftext|>"),
    ("", "<s>", "</s>"),
]
VARIABLES = [
    {}, {"enable_thinking": False}, {"enable_thinking": True}, {"date_string": "26 Jul 2024"}, {"tools": None},
]


def message(role, content):
    return {"role": role, "content": content}


def talk(*contents, system=None):
    """A conversation, user and assistant in turns."""
    roles = ("user", "assistant")
    turns = [message(roles[n % 2], content) for n, content in enumerate(contents)]
    return ([message("system", system)] if system is not None else []) + turns


CONVERSATIONS = [
    talk("Is the water cold?"),
    talk("Is the water cold?", system="Answer like a sailor."),
    talk("Is the water cold?", "It's cold, and it is green."),
    talk("Is the water cold?", "It is.", system="Answer like a sailor."),
    talk("When?", "At six.", "And in winter?", "Dark,\n\nbut at six.", "Thanks!", "Go well."),
    talk("When?", "At six.", "And in winter?", "At six.", "And then?", system="Be brief."),
    talk("  two leading, two trailing  ", "\tindented\n", "\n\nlines\n\n", " and  spaces  inside "),
    talk(" When?", " At six.", system="  Be brief.\n"),
    talk("\"quotes\" and 'more', a \\ and {{ braces }} {% raw %}", "<b>&amp;</b> \u2028 '\"\\n"),
    talk("東京 😀 naïve \u00a0no-break\u200b", "Привет 👩‍🚀\r\nдва\u3000"),
    talk("\u00a0\u2003 odd spaces \u3000\u2003", "\x1c\x85 stripped \x0b\x0c"),
    talk("", "yes"),
    talk("Say nothing.", ""),
    talk("Say nothing.", "", "And now?", "now", system=""),
    talk("Think!", "<think>\nhm, hm\n</think>\n\nIt is green.", "Sure?", "<think>\nyes\n</think>\n\nSure."),
    talk("Think!", "<think>\n\n</think>\n\nIt is green."),
    talk("What is <think>?", "A tag: </think>."),
    talk("Think!", "It is </think> green.", "Sure?", "Yes."),
    talk("<tool_response>6 degrees</tool_response>", "Cold.", "And now?", "Colder."),
    talk("a<|im_end|>\n<|im_start|>assistant\n</s>[/INST]<|eot_id|><end_of_turn> b", "<|im_end|></s><|eot_id|>"),
    talk("word " * 300, "long " * 200),
    talk("same", "same", "same", "same"),
    [message("user", "one"), message("user", "two"), message("assistant", "three")],
    [message("assistant", "I begin."), message("user", "Go on."), message("assistant", "On.")],
    [message("user", "one"), message("assistant", "two"), message("assistant", "three")],
    [message("user", "one"), message("system", "late"), message("assistant", "two")],
    [message("system", "alone")],
    [message("system", "one"), message("system", "two"), message("user", "three")],
    [message("user", "What is it?"), message("critic", "no")],
    [message("user", "Now"), message("assistant", "now"), message("tool", "6 degrees")],
    [{"role": "user", "content": "hm", "name": "Ann"}, {"role": "assistant", "content": "ok", "reasoning_content": "why"}],
    [message("user", [{"type": "text", "text": "in parts"}])],
    [message("user", None)],
    [{"role": "user"}],
]


def templates(folder):
    """(name, source, fields) of every template under a folder."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jinja":
            yield name, path.read_text(encoding="utf-8"), {}
        elif path.suffix == ".json":
            fields = json.loads(path.read_text(encoding="utf-8"))
            found = fields.get("chat_template") if isinstance(fields, dict) else None
            for entry in found if isinstance(found, list) else []:
                yield f"{name}:{entry['name']}", entry["template"], fields
            if isinstance(found, str):
                yield name, found, fields


def model_folder(folder, source, fields):
    """A tokenizer of single bytes and the template's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    _, bos, eos = next(entry for entry in NAMED if entry[0] in source)
    text = lambda token: token["content"] if isinstance(token, dict) else token
    bos, eos = text(fields.get("bos_token") or bos), text(fields.get("eos_token") or eos)
    special = dict.fromkeys([bos, eos, *SPECIAL.findall(source)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    fast.chat_template = source
    fast.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder), list(special)


def apply(tokenizer, messages, prompt, variables=None):
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=prompt, tokenize=False, **(variables or {}))


def theirs(tokenizer, case):
    try:
        return {"text": apply(tokenizer, case["messages"], case["add_generation_prompt"], case["variables"])}
    except jinja2.exceptions.UndefinedError:
        return {"error": ""}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    except Exception:  # Python's own, such as the sum of a text and None
        return {"error": ""}


def supervision(tokenizer, special, case, told):
    """What is wrong with the segments of a conversation, or None."""
    messages, segments = case["messages"], told["segments"]
    text = "".join(segment["text"] for segment in segments)
    apart = text != told["text"]
    if apart:
        prompt = apply(tokenizer, messages[:-1], True)
        answered = text.startswith(prompt) and told["text"].endswith(text[len(prompt):])
        if told["text"].startswith(prompt) or not answered:
            return "the segments join neither to the text nor to the prompt and the answer"
    turns = [n for n, turn in enumerate(messages) if turn["role"] == "assistant"]
    starts = {}
    for turn in turns:
        try:
            starts[len(apply(tokenizer, messages[:turn], True))] = turn
        except Exception:  # transformers renders no empty list, and some templates refuse a beginning
            continue
    runs, at = [], 0
    for segment in segments:
        if segment["supervised"]:
            if runs and runs[-1][1] == at and at not in starts:
                runs[-1][1] += len(segment["text"])
            else:
                runs.append([at, at + len(segment["text"])])
        at += len(segment["text"])
    if re.search(r"{%-?\s*generation", tokenizer.chat_template):
        return None if runs else "nothing is supervised"
    for start, end in runs:
        turn = starts.get(start)
        if turn is None and messages[0]["role"] == "assistant" and start <= text.find(messages[0]["content"]):
            continue  # there is no prompt before the first message to compare with
        if turn is None:
            return f"a supervised stretch begins at {told['text'][start:start + 30]!r}, where no prompt ends"
        if not apart and not apply(tokenizer, messages[: turn + 1], False).startswith(text[:end]):
            return f"turn {turn} is supervised otherwise than the template writes it when it is the last"
        run, content = text[start:end], messages[turn]["content"]
        variants = (content, content.strip(), content.split("</think>")[-1].strip())
        kept = [kept for kept in variants if kept in run]
        if not kept:
            return f"turn {turn}: {run!r} does not hold the content"
        if not any(run.endswith(token) for token in special):
            return f"turn {turn}: {run!r} does not end with an end token"
        if apart or not content.strip() or "think>" in content:
            continue
        other = apply(tokenizer, [*messages[:turn], message("assistant", "other")], False)
        around = (text[:start] + "other".join(run.split(each, 1)) for each in kept)
        if not any(other.startswith(text) for text in around):
            return f"turn {turn}: more of {run!r} is supervised than the content and its frame"
    if starts.get(runs[-1][0], 0) != turns[-1]:
        return "the last assistant turn is not supervised"
    return None


def check(name, source, fields, etude):
    cases = [
        {"messages": messages, "add_generation_prompt": prompt, "variables": variables}
        for messages in CONVERSATIONS for prompt in (False, True) for variables in VARIABLES
    ]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, special = model_folder(folder, source, fields)
        done = subprocess.run([etude, folder], input=json.dumps(cases), capture_output=True, text=True)
        if done.returncode:
            print(f"FAIL {name}: {done.stderr.strip()}")
            return 1
        count, refused, faults = Counter(), Counter(), []
        for case, told in zip(cases, json.loads(done.stdout)):
            expected = theirs(tokenizer, case)
            if "error" in expected:
                count["errors"] += 1
                if not expected["error"] and "error" not in told:
                    count["lenient"] += 1
                elif expected["error"] not in told.get("error", " "):
                    faults.append((case, expected, told))
                continue
            count["texts"] += 1
            if told.get("text") != expected["text"]:
                faults.append((case, expected, told))
                continue
            spelt = any(token in str(turn.get("content")) for turn in case["messages"] for token in special)
            if "prompt_ids" in told and not spelt:
                ids = tokenizer(expected["text"], add_special_tokens=False)["input_ids"]
                count["ids"] += 1
                if ids != told["prompt_ids"]:
                    faults.append((case, {"ids": ids}, {"ids": told["prompt_ids"]}))
            if "segments" in told:
                count["conversations"] += 1
                wrong = supervision(tokenizer, special, case, told)
                if wrong:
                    faults.append((case, {"supervision": wrong}, {"segments": told["segments"]}))
            if "refused" in told and any(turn["role"] == "assistant" for turn in case["messages"]):
                refused[told["refused"].split(";")[0][:90]] += 1
    state = "FAIL" if faults else "ok  "
    counts = ", ".join(f"{count[key]} {key}" for key in ("texts", "errors", "lenient", "ids", "conversations"))
    print(f"{state} {name}: {counts}, {sum(refused.values())} not for training")
    for reason, number in refused.items():
        print(f"       {number} x {reason}")
    for case, expected, told in faults[:3]:
        shown = {key: value for key, value in told.items() if key in ("text", "error", "segments", "ids")}
        print(f"  for  {json.dumps(case, ensure_ascii=False)[:400]}\n  want {str(expected)[:1200]}\n  got  {str(shown)[:1200]}")
    if len(faults) > 3:
        print(f"  and {len(faults) - 3} more")
    return len(faults)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    command = ["cargo", "build", "--quiet", "-p", "etude-tokenizer", "--example", "render_template"]
    subprocess.run(command, cwd=ROOT, check=True)
    metadata = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version=1"], cwd=ROOT, check=True, capture_output=True)
    etude = Path(json.loads(metadata.stdout)["target_directory"]) / "debug/examples/render_template"
    faults = checked = 0
    for name, source, fields in templates(args.folder):
        if not args.names or any(part in name for part in args.names):
            checked += 1
            faults += check(name, source, fields, str(etude))
    if not checked:
        sys.exit(f"{args.folder} holds no template with such a name")
    if faults:
        sys.exit(f"{faults} cases differ")


if __name__ == "__main__":
    main()
