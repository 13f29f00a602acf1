"""Texts with classes, of which few are learnt from: what is held out is the same for all, what is learnt is drawn.

Texts and labels are those of our corpora; each text comes once, and one with two classes never. Everything is decided
by hashes and seeded draws, and written as .jsonl, a line a text: `text`, `label`.
"""

import csv
import importlib
import itertools
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.corpora import corpus as ours
from data.preparation import sources
from data.preparation.holdout import text_hash
from data.tasks.misspelling import alphabets_of, misspelt
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps

TESTED, MEASURED = 1000, 128  # texts that arms are compared by, and by which settings and the best step are chosen
LEFT_OUT = "Uncategorized"  # of topics: says that nobody has chosen one
ACTS = 7  # intents, the commonest
FILLED = "＿"  # what stands for a name or a number that is blanked
SECTIONS = {  # of news -> the topic of an encyclopaedia that they belong to
    "business": "Society and social sciences", "politics": "Society and social sciences", "tech": "Technology",
    "entertainment": "Arts", "sports": "Everyday life",
}  # fmt: skip
BLANK = re.compile(r"\[\w+\+\w+\+([^\]]*?)\d*\]")  # of a CrossWOZ text, as in [Inform+酒店+名称]


class Labelled(NamedTuple):
    """A text and its class."""

    text: str
    label: str


class Rated(NamedTuple):
    """A text and the number that people gave it."""

    text: str
    label: float


class Held(NamedTuple):
    """The parts of a set of labelled texts; no text is in two."""

    test: list[Labelled]
    dev: list[Labelled]
    pool: list[Labelled]  # that draws are made of

    @property
    def classes(self) -> list[str]:
        return sorted({one.label for one in self.pool})


def wiki_topics() -> list[Labelled]:
    """Openings of English articles and the topic that editors file them under, 11 classes."""
    return [
        Labelled(one["text"].strip(), one["topic"])
        for one in _labelled("wiki_leads", "en")
        if one["topic"] not in ("", LEFT_OUT)
    ]


def crosswoz_intents() -> list[Labelled]:
    """What Chinese travellers say, and what they do by it: the 7 commonest sets of acts, such as Inform&Request.

    Names and numbers, which are blanked in the corpus, are blanks here.
    """
    found = list(_examples("crosswoz", None, lambda path, _: json.loads(path.read_text(encoding="utf-8")).items()))
    told = [
        Labelled(
            "".join(BLANK.sub("＿", text).split()), "&".join(sorted({act.partition("+")[0] for act in acts.split("*")}))
        )
        for acts, texts in found
        for text in texts
        if acts
    ]
    kept = {label for label, _ in Counter(one.label for one in told).most_common(ACTS)}
    return [one for one in told if one.label in kept and one.text]


def shop_reviews() -> list[Labelled]:
    """What customers of Chinese shops wrote of books, hotels and computers, and their verdict. As-is."""
    return [Labelled(one["text"].strip(), one["sentiment"]) for one in _labelled("chinese_reviews", None)]


def film_reviews() -> list[Labelled]:
    """What visitors of films wrote of them in English, and their verdict. As-is."""
    return [Labelled(one["text"].strip(), one["sentiment"]) for one in _labelled("movie_reviews", None)]


def news_topics() -> list[Labelled]:
    """News of the BBC, and the topic that the encyclopaedia files its section under: of another domain. As-is."""
    return [Labelled(one["text"].strip(), SECTIONS[one["category"]]) for one in _labelled("bbc_news", None)]


def _labelled(corpus: str, config: str | None) -> Iterable[dict[str, str]]:
    return _examples(corpus, config, lambda path, builder: (example for _, example in builder.examples(path)))


def _examples(corpus: str, config: str | None, read: Callable[[Path, type], Iterable]) -> Iterable:
    if warning := ours.corpus(corpus).warning:
        print(f"{corpus}: {warning}", file=sys.stderr)
    sources.load_tfds()  # silent, and without an accelerator, before a builder imports it
    builder = importlib.import_module(f"data.corpora.{corpus}.{corpus}_dataset_builder").Builder
    for path in ours.corpus(corpus).paths(config):
        yield from read(path, builder)


TASKS: Mapping[str, Callable[[], list[Labelled]]] = {
    "topic": wiki_topics, "intent": crosswoz_intents, "sentiment": shop_reviews,
}  # fmt: skip
CLASSES = {"topic": 11, "intent": ACTS, "sentiment": 2}


def part_of(task: str, count: int) -> str:
    """What an experiment calls draws of `count` labels: by how many they have, as many of each class."""
    return f"{task}, {count - count % CLASSES[task]} labels"


def held_apart(texts: Sequence[Labelled], test: int = TESTED, dev: int = MEASURED) -> Held:
    """The smallest hashes are tested, the next choose settings, the others are learnt from.

    Raises ValueError where too few are left to draw from.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for one in texts:
        labels[one.text].add(one.label)
    once = [Labelled(text, next(iter(of))) for text, of in labels.items() if len(of) == 1]
    once.sort(key=lambda one: text_hash(one.text.encode()))
    if len(once) < 2 * (test + dev):
        raise ValueError(f"{len(once)} texts are too few to hold {test} and {dev} out of them")
    return Held(once[:test], once[test : test + dev], once[test + dev :])


def drawn(pool: Sequence[Labelled], count: int, seed: int) -> list[Labelled]:
    """As many texts of each class, `count` in all or a few less, in an order by chance.

    A smaller draw of a seed is part of its larger ones. Raises ValueError where a class has too few.
    """
    of_class: dict[str, list[Labelled]] = defaultdict(list)
    for one in pool:
        of_class[one.label].append(one)
    each, short = count // len(of_class), min(map(len, of_class.values()))
    if not 0 < each <= short:
        raise ValueError(f"{count} labels of {len(of_class)} classes are {each} of each; the rarest class has {short}")
    draw = np.random.default_rng(seed)
    order = {label: draw.permutation(len(of)) for label, of in sorted(of_class.items())}
    taken = [of_class[label][place] for label, places in order.items() for place in places[:each].tolist()]
    return [taken[place] for place in np.random.default_rng((seed, 1)).permutation(len(taken))]


def rated(files: Iterable[Path]) -> list[Rated]:
    """Each text of VADER's ground truth once, in the order of its hash: columns `text` and `sentiment`, by tabs."""
    found: dict[str, float] = {}
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                found.setdefault(row["text"].strip(), float(row["sentiment"]))
    return sorted(itertools.starmap(Rated, found.items()), key=lambda one: text_hash(one.text.encode()))


def written_ratings(folder: Path, task: str, texts: Sequence[Rated], count: int, seeds: Sequence[int]) -> None:
    """Writes test, dev and draws of rated texts, as `written` those of a task with classes."""
    dev_from, pool_from = TESTED, TESTED + MEASURED
    write_texts(test_file(folder, task), texts[:dev_from])
    write_texts(dev_file(folder, task), texts[dev_from:pool_from])
    pool = texts[pool_from:]
    for seed in seeds:
        taken = np.random.default_rng(seed).permutation(len(pool))[:count]
        write_texts(train_file(folder, task, count, seed), [pool[place] for place in taken.tolist()])


def written(folder: Path, task: str, counts: Sequence[int], seeds: Sequence[int]) -> Held:
    """Writes the files of a task below a folder, each if it is not there yet; returns its parts."""
    held = held_apart(TASKS[task]())
    files = {test_file(folder, task): held.test, dev_file(folder, task): held.dev}
    files |= {train_file(folder, task, n, seed): drawn(held.pool, n, seed) for n in counts for seed in seeds}
    for path, texts in files.items():
        write_texts(path, texts)
    return held


def write_texts(path: Path, texts: Sequence[NamedTuple]) -> None:
    """Writes their fields, a line a text, if the file is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{dumps(one._asdict(), ensure_ascii=False)}\n" for one in texts))


def mistyped(texts: Sequence[Labelled], share: float) -> list[Labelled]:
    """The same with so many of their letters typed wrong."""
    alphabet = alphabets_of("".join(one.text for one in texts))
    return [one._replace(text=misspelt(one.text, share, alphabet, seed)) for seed, one in enumerate(texts)]


def read_labelled(path: Path) -> list[Labelled]:
    """What `written` wrote."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # splitlines() also breaks where a text has U+2028
    return [Labelled(**json.loads(line)) for line in lines]


def test_file(folder: Path, task: str) -> Path:
    return folder / task / "test.jsonl"


def dev_file(folder: Path, task: str) -> Path:
    return folder / task / "dev.jsonl"


def train_file(folder: Path, task: str, count: int, seed: int) -> Path:
    return folder / task / f"train-{count}-{seed}.jsonl"


def states_file(folder: Path, task: str, base: str) -> Path:
    """The states of a base of all texts of a task."""
    return folder / task / f"{Path(base).name}-states.npz"


def tested_file(run: Path, file: Path) -> Path:
    """What a run's head made of a file of texts."""
    return run / f"tested-{file.stem}.json"
