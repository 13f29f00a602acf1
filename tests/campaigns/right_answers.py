"""Tasks with one right answer, taught to a model and measured on 300 held-out items beside cheap baselines.

    python -m tests.campaigns.right_answers BASE FOLDER [--only summaries answers fr zh] [--catalogues UNPACKED ...]
        [-- what `finetune` takes]

summaries: an article's opening -> its description. answers: an opening that holds the description word by word, and the
question what the title is (English, French, Spanish). fr, zh: messages of programs, out of the gettext catalogues (.mo)
below UNPACKED, wheels such as django and jupyterlab-language-pack-zh-CN. Sources come once, so none is on both sides.
FOLDER keeps the pairs and the runs; a run that is done is not made again. Prints what written.json has.
"""

import argparse
import gettext
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from data.corpora import corpus
from data.corpora.wiki_leads.wiki_leads_dataset_builder import clean

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = 300
FEWEST_WORDS = 3  # of a message: shorter ones are names of buttons
QUESTIONS = {"en": "What is {}?", "fr": "Qu'est-ce que : {} ?", "es": "¿Qué es: {}?"}
LOCALES = {"fr": ("fr", "fr_FR"), "zh": ("zh_Hans", "zh_CN", "zh_Hans_CN")}
ASKED = {"fr": "Translate into French: {}", "zh": "翻译成中文：{}"}

Record = dict[str, str]


def articles(language: str) -> Iterator[Record]:
    for path in corpus.corpus("wiki_leads").paths(language):
        for article in json.loads(path.read_text(encoding="utf-8")).values():
            if article.get("description") and article["extract"]:
                yield {field: clean(article[field]) for field in ("title", "extract", "description")}


def summaries() -> Iterator[Record]:
    for article in articles("en"):
        yield {"source": f"Summarise in a few words: {article['extract']}", "target": article["description"]}


def answers() -> Iterator[Record]:
    for language, question in QUESTIONS.items():
        for article in articles(language):
            place = article["extract"].lower().find(article["description"].lower())
            if place >= 0:
                yield {
                    "question": question.format(article["title"]), "context": article["extract"],
                    "answer": article["extract"][place : place + len(article["description"])],
                }  # fmt: skip


def messages(catalogues: list[Path], language: str) -> Iterator[Record]:
    """What programs say, in English and another language; .mo files are data, read by the standard library."""
    found = {
        path for folder in catalogues for name in LOCALES[language] for path in folder.rglob(f"{name}/LC_MESSAGES/*.mo")
    }
    for path in sorted(found):
        with path.open("rb") as file:
            pairs = gettext.GNUTranslations(file)._catalog  # no public way lists them
        for source, target in pairs.items():
            if isinstance(source, str) and len(source.split()) >= FEWEST_WORDS and target and target != source:
                yield {"source": ASKED[language].format(source), "target": target}


def write_pairs(path: Path, records: Iterator[Record]) -> None:
    """Each source once. Raises ValueError where there are none."""
    by_source = {record.get("source") or record["question"] + record["context"]: record for record in records}
    if len(by_source) < 10 * HELD_OUT:
        raise ValueError(f"{path.stem}: {len(by_source)} pairs; {10 * HELD_OUT} are needed to hold {HELD_OUT} out")
    path.write_text("".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in by_source.values()), encoding="utf-8")
    print(f"{path.stem}: {len(by_source)} pairs", flush=True)


def teach(base: str, pairs: Path, run: Path, words: list[str]) -> float:
    """Fine-tunes; returns seconds."""
    begun = time.monotonic()
    command = [
        sys.executable, "-P", "-m", "train", "finetune", base, "--data", str(pairs), "--run", str(run), *words,
    ]  # fmt: skip
    with run.with_suffix(".log").open("w", encoding="utf-8") as log:
        subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            check=True,
        )  # fmt: skip
    return time.monotonic() - begun


def show(run: Path) -> None:
    for found in json.loads((run / "written.json").read_text(encoding="utf-8")).values():
        names = list(found["figures"]["after"])
        print(
            f"  {found['items']} items, {found['left_out']} without room\n  {'':<42}{''.join(f'{n:>9}' for n in names)}"
        )
        for who, figures in found["figures"].items():
            print(f"  {who:<42}{''.join(f'{figures[name]:9.1f}' for name in names)}")
        for sample in found["samples"][:3]:
            print(f"  {json.dumps(sample, ensure_ascii=False)[:600]}")


def words_before(words: list[str]) -> tuple[list[str], list[str]]:
    """Those before and those after `--`."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def main() -> int:
    ours, further = words_before(sys.argv[1:])
    held_out = ["--examples.held-out", str(HELD_OUT), "--examples.answered", str(HELD_OUT)]
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("base")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["summaries", "answers"])
    parser.add_argument("--catalogues", nargs="+", type=Path, default=[])
    asked = parser.parse_args(ours)
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.only:
        pairs, run = asked.folder / f"{name}.jsonl", asked.folder / f"run-{name}"
        if not pairs.exists():
            makers = {"summaries": summaries, "answers": answers}
            write_pairs(pairs, makers[name]() if name in makers else messages(asked.catalogues, name))
        if not (run / "written.json").exists():
            print(
                f"{name}: taught to {asked.base} in {teach(asked.base, pairs, run, [*held_out, *further]):.0f} s",
                flush=True,
            )
        show(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
