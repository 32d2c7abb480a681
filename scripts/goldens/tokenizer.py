"""Writes the golden files of crates/tokenizer/tests/goldens with Python's tokenizers and transformers.

    pip install tokenizers==0.23.* transformers==5.* jinja2
    python scripts/goldens/tokenizer.py

Tokenizers are trained here, on the text below; templates are written in the style of the well-known
ones. The Rust tests read the files and need no Python.
"""

import json
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

OUT = Path(__file__).resolve().parents[2] / "crates/tokenizer/tests/goldens"

CORPUS = [
    """The ferry leaves at half past six, and in winter it is still dark. Hanna stands at the rail with
her collar up and counts the lights on the other shore: seven by the mill, four at the harbour, one
that moves. It's always the one that moves she watches. "You'll be cold," says the mate, and she
says that she's been colder. Nobody's in a hurry. The water is black, then grey, then green.""",
    """    A recipe for bread, as my aunt wrote it down in 1974:
    - 500 g of flour, 350 g of water, 10 g of salt
    - a spoonful of the old dough; don't ask how old
Mix. Wait. Fold it 3 or 4 times, wait again (2 hours, or 12 in the cold), and bake at 240 degrees
until it sounds hollow. They'd eat it warm, though we've all been told not to.\n\n\n""",
    """def running_mean(values, width=16):
\ttotal = 0.0
\tfor index, value in enumerate(values):
\t\ttotal += value
\t\tif index >= width:
\t\t\ttotal -= values[index - width]
\t\tyield total / min(index + 1, width)  # O(1) a step\n""",
    """Über die Brücke führt der Weg, später über die Höhe; à côté du café, la rivière s'éloigne. Привет,
мир! 東京の朝は静かです。今日も雨が降る。 She wrote: "naïve", "façade", "coöperate" – and then: 😀👩‍🚀🏳️‍🌈.
The ferry leaves, the ferry comes; the water is green, the lights are out, and the bread is cold.""",
]

TEXTS = [
    "",
    " ",
    "The ferry leaves at half past six.",
    "the water's cold, they'd say; IT'S not! we've 3 or 1974 or 12,345.678 lights",
    "  two  spaces,\ttabs\t\tand\n\nlines \n ends  ",
    "東京の朝 Привет naïve façade 😀👩‍🚀🏳️‍🌈 z̷a̷l̷g̷o̷",
    "def f(x):\n\treturn x ** 2  # ²½Ⅷ\r\n",
    "\u00a0no-break\u2003em\u200bzero\ufeffmark \u0000nul \ufffd",
    "he said <|pad|> and [INST] and <s>",
]

DEFAULT_SPECIAL = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]

CHAT_SPECIAL = [
    "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>",
    "<|eot|>", "<start_of_turn>", "<end_of_turn>",
]


def byte_level(special, vocab_size, digits=False):
    tokenizer = Tokenizer(models.BPE())
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if digits:
        pattern = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pattern])
    tokenizer.pre_tokenizer = pattern
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentence_piece(legacy):
    """A BPE with byte fallback, in the manner of Llama 2's (`legacy`) or of later conversions."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=220, min_frequency=2, show_progress=False)
    # The last text is left out: its letters are what byte fallback is for.
    base.train_from_iterator(CORPUS[:-1], trainer)
    trained = json.loads(base.to_str())["model"]
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    vocab = {token: index for index, token in enumerate(special + [f"<0x{byte:02X}>" for byte in range(256)])}
    for token in trained["vocab"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def parity(tokenizer):
    """The tokenizer, and what Python makes of the texts with it."""
    cases = []
    for text in TEXTS:
        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.encode_special_tokens = True
        ids = plain.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "ids_with_special": special, "decoded": tokenizer.decode(ids)})
    # Ids that no text gives: cut characters and special tokens in between.
    streams = []
    for start in range(0, 40, 8):
        ids = [(start * 37 + 61 * step) % tokenizer.get_vocab_size() for step in range(40)]
        kept, skipped = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
        streams.append({"ids": ids, "kept": kept, "skipped": skipped})
    return {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases, "streams": streams}


CHATML = """{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}
{{- '<|im_start|>system\\nYou answer briefly.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

HEADERS = """{{ bos_token }}
{%- for message in messages %}
    {%- set opening = '<|header|>' ~ message.role ~ '<|/header|>\\n\\n' %}
    {{- opening + message.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|/header|>\\n\\n' }}
{%- endif %}
"""

INST = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

INST_FIRST = INST.replace("loop.last and system is defined", "loop.first and system is defined")

TURNS = """{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set opening = messages[0].content | trim + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + (opening if loop.first and opening is defined else '') }}
    {{- message.content | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

MARKED = """{% for message in messages %}
{{ message.role | upper }}: {% if message.role == 'assistant' %}
{% generation %}
{{ message.content }}{{ eos_token }}
{% endgeneration %}
{% else %}
{{ message.content }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT: {% endif %}"""

THINKING = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and '</think>' in message.content %}
{{- message.content.split('</think>')[-1].lstrip('\\n') }}
{%- else %}{{ message.content }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# The last turn has a thinking block, if an empty one; earlier turns lose theirs.
REASONING = """{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last < 0 and message.role == 'user' and message.content is string and not message.content.startswith('[') %}
        {%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set thought = '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}
        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

# A dated system turn that every conversation has, and roles that must take turns.
DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = '26 Jul 2024' %}
{%- endif %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system, messages = messages[0]['content'] | trim, messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|header|>system<|/header|>\\n\\nToday: ' + date_string + '\\n\\n' + system + '<|eot|>' }}
{%- for message in messages %}
    {%- if loop.previtem is defined and loop.previtem.role == message.role %}
        {{- raise_exception('two turns of ' ~ message.role ~ ' in a row, the second of ' ~ loop.index ~ ' turns') }}
    {%- elif message.role not in ['user', 'assistant'] %}
        {{- raise_exception('no ' + message.role + ' here') }}
    {%- endif %}
    {{- '<|header|>' + message.role + '<|/header|>\\n\\n' + message.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|/header|>\\n\\n' }}
{%- endif %}
"""

# A space before each answer, and the instructions only in a last turn of the user.
SPACED = """{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- set asked = turns | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- if message == asked[-1] and messages[0].role == 'system' %}
            {{- '[INST] ' + messages[0].content + '\\n\\n' + message.content + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message.content + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES = {
    "reasoning": REASONING, "dated": DATED, "spaced": SPACED,
    "chatml": CHATML, "headers": HEADERS, "inst": INST, "inst_first": INST_FIRST, "turns": TURNS,
    "marked": MARKED, "thinking": THINKING,
}


def message(role, content):
    return {"role": role, "content": content}


SYSTEM = message("system", "Answer like a sailor.")
TALKS = [
    [message("user", "Is the water cold?")],
    [SYSTEM, message("user", "Is the water cold?")],
    [message("user", "Is the water cold?"), message("assistant", "It's cold, and it is green.")],
    [SYSTEM, message("user", "  When does it leave?\n"), message("assistant", " At six. ")],
    [SYSTEM, message("user", "When?"), message("assistant", "At six."), message("user", "And in winter?"),
     message("assistant", "Dark,\n\nbut at six.\n")],
    [message("user", "東京 😀"), message("assistant", "<think>hm</think>\nnaïve"), message("user", "no"),
     message("assistant", "yes")],
    [message("user", ""), message("assistant", "yes")],
    [message("user", "one"), message("user", "two")],
    [SYSTEM, message("user", "\x1c\u00a0 odd \u2003\x1f"), message("assistant", "\x85 <b>'\"\\ \x1d\u3000")],
    [message("user", "one"), message("assistant", "<think>\n\n</think>\n\ntwo"), message("user", "[three]"),
     message("assistant", "<think>\nhm\n</think>\n\nfour")],
]


def rendered(folder, template, talk, prompt):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    case = {"messages": talk, "add_generation_prompt": prompt}
    try:
        case["text"] = tokenizer.apply_chat_template(talk, add_generation_prompt=prompt, tokenize=False)
        case["ids"] = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
    except Exception as error:  # raise_exception
        case["error"] = str(error)
    return case


def chats(tokenizer):
    with tempfile.TemporaryDirectory() as folder:
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
        fast.save_pretrained(folder)
        return [
            {"name": name, "template": template, "cases": [
                rendered(folder, template, talk, prompt) for talk in TALKS for prompt in (False, True)
            ]}
            for name, template in TEMPLATES.items()
        ]


# Templates that use what Hugging Face's environment has beyond plain Jinja, and what Python lets
# shine through it. Each is rendered with TALK, TOOLS and the switches below.
TOOLS = [{"type": "function", "function": {"name": "tide", "description": "Höhe of <tide> & 'time'",
          "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}]
SWITCHES = {"flag": True, "none": None, "ratio": 0.5, "whole": 2.0, "tiny": 1e-7, "list": ["a", "it's", 3, None, False]}
EXPRESSIONS = [
    "{{ tools | tojson }}",
    "{{ tools | tojson(indent=4) }}",
    "{{ tools[0] | tojson(indent=2, sort_keys=true) }}",
    "{{ tools[0]['function'].description | tojson(ensure_ascii=true) }}",
    "{{ tools | tojson(separators=[',', ':']) }}",
    "{{ [1, 2.0, 1e-7, true, none, 'x\\ny'] | tojson }}",
    "{{ flag }} {{ none }} {{ ratio }} {{ whole }} {{ tiny }} {{ list }} {{ missing }} {{ 7 // 2 }} {{ 7 / 2 }}",
    "{{ 'a' ~ flag ~ none ~ whole ~ 1 }}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.n }} {{ ns.seen | join(',') }}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ loop.index0 }}{{ m['role'] }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% macro shout(text, mark='!') %}{{ text | upper }}{{ mark }}{% endmacro %}{{ shout('hey') }}{{ shout('ho', '?') }}",
    "{{ messages[-1].content.strip().split(' ')[0].lower() }} {{ 'abc'.replace('b', 'x') }} {{ ' x '.rstrip() }}|",
    "{% for k, v in tools[0].items() %}{{ k }}{% if v is mapping %}:{{ v.name }}{% endif %};{% endfor %}",
    "{{ messages[0].get('name', 'nobody') }} {{ 'name' in messages[0] }} {{ messages[0].name is defined }}",
    "{% if missing %}a{% elif not missing %}b{% endif %}{% for x in missing %}c{% endfor %}{{ missing is none }}",
    "  {% if true %}\n    kept\n  {% endif %}\n\n  {#- note -#}  \n  end\n",
    "{%- generation -%}  inside  {%- endgeneration %} after",
    "{{ messages | map(attribute='role') | list | length }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ 'x' * 3 }} {{ 2 ** 3 }} {{ 'abc'[1:] }} {{ 'abc'[-1] }} {{ [1, 2, 3][1:] }} {{ range(3) | list }}",
    "{{ '%s-%d' | format('a', 3) }} {{ messages[0] | items | list | length }} {{ ' a ' | trim }}|{{ 'x' | default('y') }}",
    "{{ messages[0].content is string }} {{ messages is iterable }} {{ 3 is number }} {{ list is sequence }}",
    "{{ strftime_now('%Y') | length }}",
    "{{ ' \x1c a \x85'.strip() }}|{{ '\x1f a' | trim }}|{{ '\x1e a \n\n'.rstrip('\\n') }}|{{ ' a\x1db  c '.split() }}",
    "{{ none | trim }} {{ 1 | trim }} {{ missing | trim }} {{ none | string }} {{ true | string | length }}",
    "{{ none is iterable }} {{ missing is iterable }} {{ 1 is iterable }} {{ 'a' is iterable }} {{ tools is iterable }}",
    "{% if none is iterable and none | length > 0 %}a{% else %}b{% endif %}",
    "{{ 'a,b,,c'.split(',') }} {{ 'a b c'.split(' ', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a\nb\r\nc\x0cd\n'.splitlines() }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('x') }}",
    "{{ ' '.isspace() }} {{ 'a b'.title() }} {{ 'aXa'.count('a') }} {{ 'abc'.find('c') }} {{ 'a' in 'abc' }} {{ 'role' in messages[0] }}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if loop.nextitem is defined else '-' }} {% endfor %}",
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}:{{ loop.revindex0 }}{{ loop.cycle('a', 'b') }} {% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{{ m.content }}{% else %}none{% endfor %}",
    "{% set text %}  {{ messages[0].role }}\n{% endset %}[{{ text | trim }}] {% set a, b = 1, 2 %}{{ a + b }}",
    "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }} {{ messages | rejectattr('name', 'defined') | list | length }}",
    "{{ messages | map(attribute='content') | join('|') | replace('e', 'E') }} {{ [1, none, 'a'] | join(',') }}",
    "{{ tools[0].function | tojson(indent=4) }}\n{{ {'ä': [], 'b': {}} | tojson(indent=2) }} {{ '</b>' | tojson }}",
    "{{ {'a': 1}.items() | list }} {{ {'a': 1}.keys() | list }} {{ {'a': none}.get('a', 'x') }} {{ dict(a=1)['a'] }}",
    "{{ flag is true }} {{ none is none }} {{ flag is boolean }} {{ ratio is float }} {{ tools[0] is mapping }} {{ flag is not defined }}",
    "{%- macro turn(role) -%}<{{ role }}>{{ caller() if caller else '' }}{%- endmacro -%}{% call turn('a') %} in {% endcall %}",
    "{{ 1 if flag }}{{ 1 if missing }}{{ missing or 'or' }} {{ 'a' if not flag else 'b' }} {{ (1, 2)[1] }} {{ 7 % 3 }}",
    "a\n  {%- if true -%}  b  {%- endif +%}\n c {{- ' d ' -}} \n e{# f #}\n{{ 'g' }}\n\n",
    "{{ missing.deeper }}",
    "{{ raise_exception('no ' ~ messages[0].role) }}",
]


def expressions(tokenizer):
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    talk = TALKS[4]
    cases = []
    for template in EXPRESSIONS:
        case = {"template": template}
        try:
            case["text"] = fast.apply_chat_template(
                talk, tools=TOOLS, chat_template=template, tokenize=False, **SWITCHES)
        except Exception as error:
            case["error"] = str(error)
        cases.append(case)
    return {"messages": talk, "variables": {"tools": TOOLS, **SWITCHES}, "cases": cases}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (OUT / name).write_text(text + "\n", encoding="utf-8")
    print(name, len(text.encode()))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    trained = {
        "corpus": CORPUS,
        "words": parity(byte_level(DEFAULT_SPECIAL, 400)),
        "digits": parity(byte_level(DEFAULT_SPECIAL, 400, digits=True)),
    }
    write("byte_level.json", trained)
    write("sentence_piece.json", {"legacy": parity(sentence_piece(True)), "first": parity(sentence_piece(False))})
    chat = byte_level(CHAT_SPECIAL, 400)
    write("chat.json", {"tokenizer": json.loads(chat.to_str()), "templates": chats(chat),
                        "expressions": expressions(chat)})
    pieces = sentence_piece(False)
    inst = [entry for entry in chats_of(pieces) if entry["name"].startswith("inst")]
    legacy = [entry for entry in chats_of(sentence_piece(True)) if entry["name"].startswith("inst")]
    write("sentence_piece_chat.json", {"first": inst, "legacy": legacy})


def chats_of(tokenizer):
    """The templates that need no more special tokens than the SentencePiece one has."""
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
        return [{"name": name, "template": TEMPLATES[name], "cases": [
            rendered(folder, TEMPLATES[name], talk, prompt) for talk in TALKS for prompt in (False, True)]}
            for name in ("inst", "inst_first")]


if __name__ == "__main__":
    main()
