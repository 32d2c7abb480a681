#!/usr/bin/env python3
"""Writes the goldens of crates/scores: what sacrebleu and rouge-score say about made-up texts.

Needs sacrebleu 2.6.0 and rouge-score 0.1.2 (pip install sacrebleu==2.6.0 rouge-score==0.1.2).
Run it from anywhere; it writes crates/scores/tests/goldens/{cases,stems}.json and is
deterministic. SQuAD's scores have no package; they are restated here in the terms of its paper.
"""

import collections
import json
import pathlib
import random
import re
import string

import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

assert sacrebleu.__version__ == "2.6.0", sacrebleu.__version__
OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/scores/tests/goldens"

# prediction, references
WRITTEN = [
    ("The council approved the new harbour budget on Tuesday.",
     ["On Tuesday the council approved a new budget for the harbour.",
      "The new harbour budget was approved by the council on Tuesday."]),
    ("Heavy snow closed 14 mountain roads, and about 3,500 homes lost power.",
     ["About 3,500 homes lost power after heavy snow, which closed fourteen mountain roads."]),
    ("She sold the boat for $12,400.50 - a loss of 7.5%.",
     ["She sold her boat for $12,400.50, losing 7.5% of its price.",
      "The boat was sold at a loss (7.5%), for $12,400.50.",
      "He kept the boat."]),
    ("American actor (born 1970)", ["American actor and director (born 1970)"]),
    ("River in northern Spain", ["river in the north of Spain, tributary of the Ebro"]),
    ("The committee's recommendations were generally ignored by the ministers.",
     ["Ministers ignored most of what the committee recommended.",
      "Generally, the recommendation of the committees was being ignored."]),
    ("Der Zug nach Zürich fährt um 18:05 Uhr ab.", ["Um 18.05 Uhr fährt der Zug nach Zürich."]),
    ("L'été dernier, nous avons visité l'île d'Oléron.",
     ["Nous avons visité l'île d'Oléron l'été dernier !"]),
    ("«¿Dónde está la biblioteca?», preguntó él.", ["—¿Dónde queda la biblioteca? —preguntó."]),
    ("東京は日本の首都です。", ["日本の首都は東京です。", "東京が首都である。"]),
    ("Москва — столица России.", ["Столица России — город Москва."]),
    ("The library offers compression, decompression and checksums for streaming data.",
     ["Library for compressing and decompressing streams, with checksum support."]),
    ("Mix flour and butter.\nAdd two eggs and stir.\nBake for 40 minutes at 180 degrees.",
     ["Stir the flour with the butter.\nThen add the eggs.\nBake it at 180 degrees for 40 minutes."]),
    ("Profits rose.\nShares fell sharply on Friday.\n\nAnalysts were surprised.",
     ["Shares fell on Friday although profits rose.\nAnalysts expressed surprise.",
      "Surprised analysts saw shares fall.\nProfits rose."]),
    ("the cat the cat sat\non on the mat", ["the cat sat on the mat\nthe mat sat on the cat"]),
    ("a b c d e\nc d e f g\na c e g", ["a c b d f\ne g f a c", "g f e d c b a\na b c d e f g"]),
    ("It wasn't the engine; it was the fuel-pump's relay (again!).",
     ["It was not the engine: it was the relay of the fuel pump, again."]),
    ("Version 2.0.1 fixes bugs #1,024 and #2,048 in v1.9.x.",
     ["Bugs #1024 and #2048 of v1.9.x are fixed in version 2.0.1."]),
]

ADVERSARIAL = [
    ("", ["Something was expected."]),
    ("Something was said.", [""]),
    ("", [""]),
    ("   \t\n ", ["  "]),
    ("...", ["!!!"]),
    (".", ["."]),
    ("a", ["a"]),
    ("a", ["b"]),
    ("The", ["a", "an", ""]),
    ("an apple a day", ["the apple, the day", "apple day"]),
    ("one two three", ["one two three"]),
    ("one two three four", ["one two three four"]),
    ("x", ["a very much longer reference than the prediction is, by far, with commas"]),
    ("a very much longer prediction than the reference is, by far, with commas", ["x"]),
    ("same same same same same", ["same"]),
    ("same", ["same same same same same"]),
    ("&quot;Fish &amp; chips&quot; &lt;3 &amp;lt;b&gt; &apos;x&apos; &#39;", ["\"Fish & chips\" <3 <b> 'x' '"]),
    ("<skipped> this line <skipped>", ["this line"]),
    ("hyphen-\nated and line\nbreaks\r\nhere", ["hyphenated and line breaks here"]),
    ("1,000.50 .5 5. 1.2.3 1,2,3 a,b a.b 3-4 a-b -5 5- , .", ["1,000.50 0.5 5 1.2.3 1,2,3 a, b a. b 3 - 4 a-b - 5"]),
    ("(hi) ((hi)) \"hi\" hi!! !hi! 'tis don't .. ...", ["(hi) hi hi hi ! 'tis don't . . ..."]),
    ("tab\tseparated\u00a0nbsp\u2003em\u3000ideographic\u200bzero", ["tab separated nbsp em ideographic zero"]),
    ("file\x1cgroup\x1drecord\x1eunit\x1fend\x85nel", ["file group record unit end nel"]),
    ("trailing space .   ", ["trailing space ."]),
    ("ΣΊΣΥΦΟΣ İstanbul STRASSE ẞ \u212aelvin", ["σίσυφος istanbul straße ß Kelvin"]),
    ("cafe\u0301 café a\u0301 the\u0301", ["café cafe\u0301 á thé"]),
    ("👩\u200d👩\u200d👧 🇫🇷 ½ ² ٣ Ⅷ ①", ["👩 👧 🇫🇷 1/2 2 3 VIII 1"]),
    ("ÀÉÎ only accents ÖÜ", ["àéî ONLY ACCENTS öü"]),
    ("a_b the_cat an-apple a.b.c", ["a_b thecat anapple abc"]),
    ("€5 + £3 = ¥8 ≈ 10 × 2 ÷ 4 ° © ™ ^ ` ~ | \\ {} []", ["€ 5 + £ 3 = ¥ 8 ≈ 10 × 2 ÷ 4"]),
    ("$1 ${1} \\1 $0", ["$1 \\1 ${1}"]),
    ("«a» „b“ ‘c’ 1‚5 2·3 4。5 x…y", ["« a » „ b “ ‘ c ’ 1 ‚ 5"]),
    ("agreed flies dying news skies happily relational", ["agree fly die new sky happy relate"]),
    ("no overlap whatsoever between these", ["completely different words stand here"]),
    ("line one\n\n\nline two\n", ["\nline two\nline one"]),
    ("\n", ["word\n\nword"]),
    (" ".join(f"word{i % 37}" for i in range(420)), [" ".join(f"word{i % 41}" for i in range(400))]),
    ("x" * 300, ["x" * 290 + "y"]),
]

WORDS = """the a an of to in and for on with by from at is was are were it he she they its his their not
river city town village actor singer player football politician American German species genus plant album
film series novel company railway station island mountain lake church school university museum bridge
district province county former first second new old great national public born died known located based
released founded written directed produced running walking played stories studies happily carefully
nationalization organizer adjustable 1970 1,234 3.14 2020-21 18:05 U.S. Mr. e.g. don't it's co-op
naïve Zürich São Ångström été 東京 Москва — “quoted” (park) [edit] 50% $20 C++ A/B @home #1 & < > ; : ! ? , .
""".split()
assert len(set(WORDS)) == len(WORDS)


def random_pairs(rng, count):
    for _ in range(count):
        base = [rng.choice(WORDS) for _ in range(rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 14]))]
        references = [mutate(rng, base) for _ in range(rng.choice([1, 1, 1, 1, 2, 3]))]
        yield mutate(rng, base), references


def mutate(rng, words):
    words = list(words)
    for _ in range(rng.randrange(0, 1 + len(words) // 2 + 1)):
        at = rng.randrange(len(words) + 1)
        change = rng.randrange(5)
        if change == 0:
            words.insert(at, rng.choice(WORDS))
        elif at < len(words) and change == 1:
            del words[at]
        elif at < len(words) and change == 2:
            words[at] = rng.choice(WORDS)
        elif at < len(words) and change == 3:
            words[at] = rng.choice([str.upper, str.title, str.lower])(words[at])
        elif at < len(words):
            words.insert(rng.randrange(len(words)), words.pop(at))
    text = words[0] if words else ""
    for word in words[1:]:
        text += rng.choice([" "] * 12 + ["", "  ", "\n", "\n"]) + word
    return text


def rouge(stemmed):
    scorer = RougeScorer(["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"], use_stemmer=stemmed)

    def score(prediction, references):
        found = scorer.score_multi(references, prediction)
        return {name: list(map(float, found[name])) for name in found}

    return score


def squad_tokens(text):
    """Lower case, no ASCII punctuation, no articles."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(prediction, reference):
    p, r = squad_tokens(prediction), squad_tokens(reference)
    if not p or not r:
        return float(p == r)
    same = sum((collections.Counter(p) & collections.Counter(r)).values())
    return 2 * same / (len(p) + len(r))


def squad(prediction, references):
    return {
        "exact_match": max(float(squad_tokens(prediction) == squad_tokens(r)) for r in references),
        "token_f1": max(squad_f1(prediction, r) for r in references),
    }


def cases(pairs):
    plain, stemmed = rouge(False), rouge(True)
    metrics = {"bleu": BLEU(effective_order=True), "chrf": CHRF(), "chrf++": CHRF(word_order=2)}
    for prediction, references in pairs:
        expected = {"rouge": plain(prediction, references), "rouge_stem": stemmed(prediction, references)}
        for name, metric in metrics.items():
            expected[name] = metric.sentence_score(prediction, references).score
        yield {"prediction": prediction, "references": references,
               **expected, **squad(prediction, references)}


def bleu_settings():
    smoothings = [("exp", None), ("floor", None), ("floor", 0.5), ("add-k", None), ("add-k", 2.5), ("none", None)]
    for tokenize in ["13a", "intl", "char", "none"]:
        for method, value in smoothings if tokenize == "13a" else smoothings[:1]:
            for lowercase in [False, True]:
                for effective in [False, True]:
                    yield dict(tokenize=tokenize, smooth_method=method, smooth_value=value,
                               lowercase=lowercase, effective_order=effective)


def chrf_settings():
    for word_order in [0, 1, 2]:
        for beta in [1, 2, 3] if word_order == 0 else [2]:
            for flags in range(8):
                yield dict(word_order=word_order, beta=beta, lowercase=bool(flags & 1),
                           whitespace=bool(flags & 2), eps_smoothing=bool(flags & 4))


def corpora(pairs, ranges):
    for low, high in ranges:
        part = pairs[low:high]
        most = max(len(r) for _, r in part)
        predictions = [p for p, _ in part]
        streams = [[r[i] if i < len(r) else None for _, r in part] for i in range(most)]
        for kind, every in [("bleu", bleu_settings()), ("chrf", chrf_settings())]:
            for settings in every:
                metric = BLEU(**settings) if kind == "bleu" else CHRF(**settings)
                found = metric.corpus_score(predictions, streams)
                row = {"metric": kind, "range": [low, high], "settings": settings, "score": float(found.score),
                       "signature": str(metric.get_signature())}
                if kind == "bleu":
                    row["precisions"] = [float(p) for p in found.precisions]
                    row["brevity_penalty"] = float(found.bp)
                else:
                    row["label"] = found.name
                yield row


def tokens(pairs):
    for tokenizer in ["13a", "intl", "char", "none"]:
        metric = BLEU(tokenize=tokenizer)
        for prediction, references in pairs:
            for text in [prediction, *references]:
                if len(text) < 200:
                    yield {"tokenizer": tokenizer, "text": text, "tokens": metric._preprocess_segment(text).split()}


BASES = """abandon abil academ accept accord account acquir activ adapt adjust adopt advis agre allow analog annoy
apolog appli argu arriv assist attract author balanc beauti begin believ betray bless boil bribe bright busi call
cancel capit care caus ceas centr chang charit cheer circl classif clear combin commun compar complet comput
conceiv condit conform confus connect conquer consid conspir constitut control convert correct cours cri crystal
cultur danc decid decis defens defin demonstr depend deriv design determin develop digit direct discover dress
duplic eat econom educ effect elect electr emphas employ enabl enjoy enter equal establish evalu examin excit exist
expect explain extrem fail fall fals famili fan feed fertil feud fill final fit fizz flexibl fli form formal free
fulfil function gather gener geo govern grac grow gyroscop happen happi hast help hesit hiss histor homolog hop hope
horizont hospit human hydraul imagin immedi impress improv includ independ individu infer inform inherit inspir
institut intend inter invent involv irrit joy judg jump justif keep kick kill know label law lead learn legal level
liber lie light limit liter litig live local log logic love magnet main manag mark marri matter mean measur mechan
mention method militar mind miss mobil modern monet motor move multipl nation natur necess nerv new nomin normal
note obey object oblig observ obtain occasion occur offer offic oper oppos optim organ origin own paint particip
pass pay penal perceiv perfect perform permit person philolog philosoph phys pirat plaster play plead polit pollut
posit possibl power predic prefer prepar present preserv press prevent princip print privat prob proceed process
produc profess program project proper protect prove provid public pull punish qualif quick radic rapid rat rational
react read real reason receiv recogn recommend reduc refer reform regul rel relat relax reli remain rememb repeat
replac report repres request requir resist resolv respect respons restrict result revers reviv rid roll rub run sad
satir save say scienc search secret secur sens sensit separ seri serv sever shar ship shop short sign simpl siz ski
skill sky slow social solv speci spi spoil spray stabil standard start state stop stor strateg stream stud subject
succeed sudden suggest suppl support surpris surround symbol sympath system tan tax teach techn tend test theolog
think tie toler trad train transfer translat travel tri triplic troubl trust try typ uniform unit univers usual
utter vagu valid valu vari veget verb vibrat vietnam vile violat visit visual vital walk want war wash wast weak
well wid will win wit wonder work worri writ wrong yell yield zoolog syzyg rhythm y yy ay oy by toy xy""".split()
ENDINGS = """s es ies ss sses e ed ied eed d ing ying y ly ily ally ably ibly ency ancy ity ality ivity ability ibility
ational tional ation ization isation ator er or izer est ful fully fulness ness iness less lessness al alli alism
alist ical ically icate icity ative alize alized alizing ive iveness ively ous ously ousness ousli ant ance ancies
ent ence ently ement ement's ments ment ion ions sion tion ations ou ism isms ate ated ating ates iti ize izes ized
izing able ible logy logi logies ology ll lling lled ller e's ee eed eeing bb tt zz yed ys eyed oying 0 20s th""".split()
ENDINGS = list(dict.fromkeys(e for e in ENDINGS if e.isalnum())) + [""]
LETTERS = "aeiouybcdlnrstzgaei"


def fnv(words):
    """FNV-1a of the words, each followed by a line end."""
    digest = 0xCBF29CE484222325
    for byte in "".join(word + "\n" for word in words).encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return f"{digest:016x}"


def made_up(block, count):
    """Strings that no one would think of, from a generator that the test repeats."""
    state = block
    for _ in range(count):
        word = ""
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        for _ in range((state >> 33) % 9):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            word += LETTERS[(state >> 33) % len(LETTERS)]
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield word + ENDINGS[(state >> 33) % len(ENDINGS)]


def stems():
    stemmer = PorterStemmer()
    rng = random.Random(5)
    irregular = sorted(stemmer.pool)
    some = irregular + [base + ending for base in BASES for ending in rng.sample(ENDINGS, 3)]
    return {
        "bases": " ".join(BASES),
        "endings": " ".join(ENDINGS).strip(),
        "letters": LETTERS,
        "explicit": " ".join(f"{word}>{stemmer.stem(word)}" for word in some),
        "by_ending": {e: fnv(stemmer.stem(base + e) for base in BASES) for e in ENDINGS},
        "made_up": [fnv(map(stemmer.stem, made_up(block, 2000))) for block in range(25)],
    }


def write(name, value):
    # One case a line, so that a change can be read.
    lines = []
    for key, part in value.items():
        if isinstance(part, list) and part and isinstance(part[0], dict):
            rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in part)
            lines.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}")
    (OUT / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    pairs = WRITTEN + ADVERSARIAL + list(random_pairs(random.Random(2), 300))
    first, second = len(WRITTEN), len(WRITTEN) + len(ADVERSARIAL)
    # The whole, both written kinds, a range with one reference each, and two single items.
    ranges = [(0, len(pairs)), (0, first), (first, second), (3, 5), (first, first + 1), (first + 10, first + 11)]
    assert all(len(r) == 1 for _, r in pairs[3:5])
    write("cases.json", {
        "cases": list(cases(pairs)),
        "corpora": list(corpora(pairs, ranges)),
        "tokens": list(tokens(WRITTEN + ADVERSARIAL)),
    })
    write("stems.json", stems())


if __name__ == "__main__":
    main()
