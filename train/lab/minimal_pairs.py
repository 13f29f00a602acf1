"""Pairs of sentences that differ in one point of grammar: does a model find the good one more probable?

    python -m train.lab.minimal_pairs runs/laptop

Twenty paradigms, ten English and ten Chinese, of agreement, word order, negation and anaphora; 200 pairs of each, drawn
from templates. The sentences of a pair differ in one word, or in the order of the same words. A guesser is right in
half of them. The words are common ones; of modern Chinese a model that has read one old novel knows few.

Source of the method: Warstadt et al. 2020, "BLiMP", arXiv:1912.00582, sections 3 and 4 (whole sentences are compared).
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from rich.table import Table

import gptjax
from gptjax.command.console import make_console, print_any_text
from gptjax.command.options import print_mistake, read
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import expanded
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.scoring import View
from gptjax.results import Metric, mean_of

PAIRS = 200  # of each paradigm


class Pair(NamedTuple):
    """Two sentences."""

    good: str
    bad: str


class Paradigm(NamedTuple):
    """Pairs that differ in the same point."""

    language: str
    subject: str  # agreement, word order, negation or anaphora
    pairs: tuple[Pair, ...]


NOUNS = (  # singular, plural
    ("king", "kings"), ("house", "houses"), ("friend", "friends"), ("brother", "brothers"), ("dog", "dogs"),
    ("book", "books"), ("city", "cities"), ("river", "rivers"), ("son", "sons"), ("song", "songs"), ("tree", "trees"),
    ("ship", "ships"), ("servant", "servants"), ("mountain", "mountains"), ("word", "words"), ("game", "games"),
)  # fmt: skip
ADJECTIVES = ("good", "great", "old", "new", "small", "young", "strong", "white", "black", "beautiful", "cold", "long")
PLACES = ("house", "city", "garden", "field", "river", "church", "school", "forest", "kitchen", "water")
VERBS = (  # plain, third person, past, a sentence's rest
    ("go", "goes", "went", "home"), ("know", "knows", "knew", "the way"), ("see", "sees", "saw", "the city"),
    ("love", "loves", "loved", "music"), ("read", "reads", "read", "the book"), ("speak", "speaks", "spoke", "to them"),
    ("eat", "eats", "ate", "bread"), ("take", "takes", "took", "the money"), ("find", "finds", "found", "the road"),
    ("make", "makes", "made", "a fire"), ("give", "gives", "gave", "him water"), ("hear", "hears", "heard", "the song"),
)  # fmt: skip
MEN = ("king", "father", "son", "brother", "man", "boy", "uncle", "prince", "lord", "husband")
WOMEN = ("queen", "mother", "daughter", "sister", "woman", "girl", "aunt", "princess", "lady", "wife")
SEEN = ("saw", "loved", "hurt", "praised", "asked", "hid", "helped", "killed", "called", "washed")
WAYS = ("", " in the morning", " at night", " again", " in the end", " that day", " once more", " after the war")

WORDS_ZH = {  # what stands at the places of a form
    "who": ("我", "他", "我们", "他们", "先生", "老师", "朋友", "将军", "丞相", "客人"),
    "one": ("他", "她", "你", "他们", "这个人", "那个人", "我哥哥", "他父亲"),
    "kind": ("", "好", "新", "我们的", "这里的"),
    "other": ("老师", "朋友", "将军", "客人", "学生", "医生"),
    "time": ("今天", "明天", "昨天", "晚上", "早上", "今年", "现在", "当时"),
    "now": ("", "今天", "明天", "现在", "晚上", "早上"),
    "verb": ("去", "来", "走", "看书", "吃饭", "说话", "喝酒", "睡觉", "唱歌", "回家", "写信", "上马"),
    "act": ("看书", "吃饭", "说话", "喝酒", "睡觉", "唱歌", "写信", "等人", "读书", "下棋"),
    "place": ("家里", "城里", "山上", "河边", "路上", "营中", "店里", "学校", "门外", "城外"),
    "thing": ("书", "信", "衣服", "酒", "饭", "刀", "花", "东西", "茶", "剑"),
}
MEASURED_ZH = (  # a measure word and nouns that take it
    ("本", ("书", "小说", "词典", "画册")), ("匹", ("马", "骏马", "白马", "黑马")), ("条", ("河", "路", "鱼", "裙子")),
    ("张", ("桌子", "床", "地图", "照片")), ("把", ("刀", "剑", "伞", "钥匙")), ("座", ("山", "城", "桥", "塔")),
    ("封", ("信", "家信", "密信", "回信")), ("件", ("衣服", "事情", "礼物", "上衣")),
)  # fmt: skip
MEN_ZH = ("父亲", "儿子", "哥哥", "弟弟", "爷爷", "叔叔", "丈夫", "国王")
WOMEN_ZH = ("母亲", "女儿", "姐姐", "妹妹", "奶奶", "阿姨", "妻子", "王后")
DONE_ZH = (
    "看见了", "喜欢", "相信", "了解", "保护了", "介绍了", "批评了", "忘了", "安慰", "照顾", "打扮", "原谅了", "骗了",
)  # fmt: skip


def paradigms() -> dict[str, Paradigm]:
    """Name -> paradigm; the same pairs at every call."""
    made = {
        "en/agreement of the verb": ("agreement", _verb_agrees()),
        "en/agreement beyond another noun": ("agreement", _agrees_beyond()),
        "en/this and these": ("agreement", _this_and_these()),
        "en/adjective before noun": ("word order", _adjective_first()),
        "en/preposition before its noun": ("word order", _preposition_first()),
        "en/auxiliary before verb": ("word order", _auxiliary_first()),
        "en/plain verb after does not": ("negation", _plain_after_not()),
        "en/ever under no": ("negation", _ever_under_no()),
        "en/himself and herself": ("anaphora", _himself()),
        "en/himself and themselves": ("anaphora", _themselves()),
        "zh/measure word of the noun": ("agreement", _measured_zh("这{0}{1}很好。", "那{0}{1}不见了。")),
        "zh/measure word in an object": ("agreement", _measured_zh("他有一{0}{1}。", "我看见三{0}{1}。")),
        "zh/time before verb": ("word order", _two_forms("{who}{time}{verb}。", "{who}{verb}{time}。")),
        "zh/place before verb": ("word order", _two_forms("{who}在{place}{act}。", "{who}{act}在{place}。")),
        "zh/object after 把": ("word order", _two_forms("{who}把{thing}放在{place}。", "{who}把放{thing}在{place}。")),
        "zh/不 before verb": ("negation", _not_first_zh()),
        "zh/没有 and 不有": ("negation", _two_forms("{who}{now}没有{thing}。", "{who}{now}不有{thing}。")),
        "zh/不是 and 没是": ("negation", _two_forms("{one}不是{kind}{other}。", "{one}没是{kind}{other}。")),
        "zh/他自己 and 她自己": ("anaphora", _himself_zh()),
        "zh/互相 of several": ("anaphora", _each_other_zh()),
    }  # fmt: skip
    return {name: Paradigm(name.split("/")[0], subject, _chosen(pairs)) for name, (subject, pairs) in made.items()}


def _chosen(pairs: Iterator[Pair]) -> tuple[Pair, ...]:
    """So many of them, always the same ones, in an order by chance."""
    every = list(dict.fromkeys(pairs))
    return tuple(every[place] for place in np.random.default_rng(0).permutation(len(every))[:PAIRS])


def _verb_agrees() -> Iterator[Pair]:
    for (one, many), adjective, way in itertools.product(NOUNS, ADJECTIVES, WAYS[:3]):
        yield Pair(f"The {one} is {adjective}{way}.", f"The {one} are {adjective}{way}.")
        yield Pair(f"The {many} are {adjective}{way}.", f"The {many} is {adjective}{way}.")


def _agrees_beyond() -> Iterator[Pair]:
    for (one, many), (other, others), adjective in itertools.product(NOUNS, NOUNS[::-1], ADJECTIVES[:4]):
        if one != other:
            yield Pair(f"The {one} of the {others} is {adjective}.", f"The {one} of the {others} are {adjective}.")
            yield Pair(f"The {many} of the {other} are {adjective}.", f"The {many} of the {other} is {adjective}.")


def _this_and_these() -> Iterator[Pair]:
    for (one, many), past, way in itertools.product(NOUNS, SEEN[:3] + SEEN[4:8], WAYS[:3]):
        yield Pair(f"I {past} this {one}{way}.", f"I {past} these {one}{way}.")
        yield Pair(f"I {past} these {many}{way}.", f"I {past} this {many}{way}.")


def _adjective_first() -> Iterator[Pair]:
    for (noun, _), adjective, place in itertools.product(NOUNS, ADJECTIVES, PLACES[:4]):
        if noun != place:
            yield Pair(f"The {adjective} {noun} was in the {place}.", f"The {noun} {adjective} was in the {place}.")


def _preposition_first() -> Iterator[Pair]:
    for (noun, _), place, word in itertools.product(NOUNS, PLACES, ("to", "near", "from")):
        if noun != place:
            yield Pair(f"The {noun} came {word} the {place}.", f"The {noun} came the {place} {word}.")


def _auxiliary_first() -> Iterator[Pair]:
    people, auxiliaries = ("I", "You", "We", "They"), ("will", "can", "must", "may", "should")
    for (verb, _, _, rest), who, word in itertools.product(VERBS, people, auxiliaries):
        yield Pair(f"{who} {word} {verb} {rest}.", f"{who} {verb} {word} {rest}.")


def _plain_after_not() -> Iterator[Pair]:
    for (verb, third, _, rest), who in itertools.product(VERBS, (*MEN, *WOMEN)):
        yield Pair(f"The {who} does not {verb} {rest}.", f"The {who} does not {third} {rest}.")


def _ever_under_no() -> Iterator[Pair]:
    for (noun, _), (_, _, past, rest), way in itertools.product(NOUNS, VERBS, WAYS[:2]):
        yield Pair(f"No {noun} ever {past} {rest}{way}.", f"Some {noun} ever {past} {rest}{way}.")


def _himself() -> Iterator[Pair]:
    for who, verb, way in itertools.product(MEN, SEEN, WAYS[:4]):
        yield Pair(f"The {who} {verb} himself{way}.", f"The {who} {verb} herself{way}.")
    for who, verb, way in itertools.product(WOMEN, SEEN, WAYS[:4]):
        yield Pair(f"The {who} {verb} herself{way}.", f"The {who} {verb} himself{way}.")


def _themselves() -> Iterator[Pair]:
    for who, verb, way in itertools.product(("king", "father", "brother", "boy", "prince", "lord"), SEEN, WAYS):
        yield Pair(f"The {who} {verb} himself{way}.", f"The {who} {verb} themselves{way}.")
        yield Pair(f"The {who}s {verb} themselves{way}.", f"The {who}s {verb} himself{way}.")


def _measured_zh(*forms: str) -> Iterator[Pair]:
    for (word, nouns), (other, _) in itertools.product(MEASURED_ZH, MEASURED_ZH):
        if word != other and other not in ("把", "条"):  # a handful, a strip: these go with too much
            for noun, form in itertools.product(nouns, forms):
                yield Pair(form.format(word, noun), form.format(other, noun))


def _two_forms(good: str, bad: str) -> Iterator[Pair]:
    """Both forms with the same words, in all ways."""
    names = [name for name in WORDS_ZH if f"{{{name}}}" in good]
    for chosen in itertools.product(*(WORDS_ZH[name] for name in names)):
        words = dict(zip(names, chosen, strict=True))
        yield Pair(good.format(**words), bad.format(**words))


def _not_first_zh() -> Iterator[Pair]:
    for who, now, act in itertools.product(WORDS_ZH["who"], WORDS_ZH["now"], WORDS_ZH["act"]):
        yield Pair(f"{who}{now}不{act}。", f"{who}{now}{act[0]}不{act[1]}。")


def _himself_zh() -> Iterator[Pair]:
    for people, own, other in ((MEN_ZH, "他", "她"), (WOMEN_ZH, "她", "他")):
        for who, verb in itertools.product(people, DONE_ZH):
            yield Pair(f"{who}{verb}{own}自己。", f"{who}{verb}{other}自己。")


def _each_other_zh() -> Iterator[Pair]:
    verbs = ("帮助", "认识", "喜欢", "相信", "了解", "学习", "保护", "尊重", "照顾", "关心")
    ones, others = ("他", "她", "老师", "将军", "哥哥"), ("我", "你", "朋友", "客人")
    for one, other, verb in itertools.product(ones, others, verbs):
        yield Pair(f"{one}和{other}互相{verb}。", f"{one}对{other}互相{verb}。")


def right(model: LanguageModel, pairs: Sequence[Pair], view: View) -> np.ndarray:
    """Of every pair, whether the good sentence has the higher log-probability as a whole; f64, 0 or 1, ties 0.5.

    `view`: read from its beginning, or every token from both sides (a pseudo-likelihood).
    """
    texts = encode_prompts(model.tokenizer, model.generation_config, [sentence for pair in pairs for sentence in pair])
    total = np.array([found.sum() for found in model.log_probs(texts, view=view)]).reshape(-1, 2)
    return 0.5 * (1 + np.sign(total[:, 0] - total[:, 1]))


def measure(model: LanguageModel, views: Sequence[View]) -> dict[str, dict[View, Metric]]:
    """Paradigm -> view -> share of its pairs in which the good sentence is more probable."""
    return {
        name: {view: mean_of(right(model, paradigm.pairs, view)) for view in views}
        for name, paradigm in paradigms().items()
    }


def by_subject(found: Mapping[str, Mapping[View, Metric]]) -> dict[tuple[str, str], dict[View, float]]:
    """(language, subject) -> view -> the mean over its paradigms."""
    of_subject: dict[tuple[str, str], list[str]] = {}
    for name, paradigm in paradigms().items():
        of_subject.setdefault((paradigm.language, paradigm.subject), []).append(name)
    return {
        subject: {view: float(np.mean([found[name][view].value for name in names])) for view in found[names[0]]}
        for subject, names in of_subject.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is measured."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = "runs/laptop"
    """a run, a folder of Hugging Face or a .gguf file"""
    to: Path | None = None  # a .json file that is written too: the share of right pairs by subject and view


def main(arguments: list[str]) -> int:
    """Prints a line a paradigm; returns the exit code."""
    print_any_text()
    try:
        asked = read(Asked, arguments, "python -m train.lab.minimal_pairs", about=__doc__)
        model = gptjax.load(asked.model)
    except (ValueError, OSError) as error:
        return print_mistake(error)
    views: tuple[View, ...] = ("causal",) if model.tokenizer.mask is None else ("causal", "bidirectional")
    found = measure(model, views)
    if asked.to is not None:
        shares = {
            f"{language} {of}, {view}": share
            for (language, of), told in by_subject(found).items()
            for view, share in told.items()
        }
        write_whole(expanded(asked.to), dumps(shares, indent=1, ensure_ascii=False) + "\n")
    table = Table(
        "paradigm", *views, title=f"good sentences found more probable, of {PAIRS} pairs each; by chance 50 %"
    )
    for name, of_view in found.items():
        table.add_row(name, *(f"{one.value:.1%}" for one in of_view.values()))
    table.add_section()
    for (language, subject), of_view in by_subject(found).items():
        table.add_row(f"{language}: {subject}", *(f"{share:.1%}" for share in of_view.values()))
    make_console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
