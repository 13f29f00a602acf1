"""A small prepared folder made by hand, document by document, so that a test knows every token of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.description import FORMAT, Source, write_description
from data.preparation.holdout import text_hash
from data.preparation.token_flags import WORD_START, marks
from data.spec import DataSpec
from data.tasks.task import Corpus, Text
from data.token_store import scramble
from gptjax.text.tokenizer import Tokenizer, train_characters

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "box",
    "five",
    "jolly",
    "sphinxes",
    "of",
    "black",
    "quartz",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Documents of 3 to 40 random words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 40))) + ".\n" for _ in range(count)]


def stories(count: int, least: int, seed: int = 0) -> list[str]:
    """Documents of `least` to 1.5 x `least` sentences of 3 to 8 random words, which state, ask or exclaim."""
    draw = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join(draw.choice(WORDS, draw.integers(3, 9))) + draw.choice([".", "?", "!"])

    return [" ".join(sentence() for _ in range(draw.integers(least, least * 3 // 2))) + "\n" for _ in range(count)]


def write_split(folder: Path, tokenizer: Tokenizer, documents: Sequence[str]) -> None:
    """One split of one source, in the layout of data.prepare."""
    folder.mkdir(parents=True)
    ids = [[tokenizer.bos, *tokenizer.encode(text), tokenizer.eos] for text in documents]
    np.array([id for document in ids for id in document], "<u2").tofile(folder / "tokens.bin")
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
    np.save(folder / "bytes.npy", np.array([len(text.encode()) for text in documents], np.int32))
    np.save(folder / "hashes.npy", np.array([text_hash(text.encode()) for text in documents], np.uint64))
    np.save(folder / "labels.npy", np.zeros((len(documents), 0), np.int32))
    of_text = [marks([text], [document[1:-1]], tokenizer, "en") for text, document in zip(documents, ids, strict=True)]
    np.concatenate([np.pad(mark_T, 1) for mark_T in of_text]).tofile(folder / "marks.bin")


def write_prepared(
    folder: Path,
    sources: Mapping[str, Sequence[str]],
    rates: Mapping[str, int] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A prepared folder of sources with 90 % of their documents for training."""
    tokenizer = tokenizer or train_characters([text for documents in sources.values() for text in documents], 400)
    rates = rates or DataSpec(sources=tuple(sources)).rates
    for name, documents in sources.items():
        held = max(1, len(documents) // 10)
        write_split(folder / name / "train", tokenizer, documents[:-held])
        write_split(folder / name / "validation", tokenizer, documents[-held:])
    tokenizer.save(folder / "tokenizer.json")
    write_prepared_json(folder, {name: {"folder": name, "share": rates[name]} for name in sources})
    return folder


def write_prepared_json(folder: Path, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """A `prepared.json` that says of each source what is given, and else next to nothing."""
    source: Source = {
        "licence": "yours", "attribution": None, "citation": None, "language": "en", "domain": None,
        "warning": None, "folder": "", "share": 1.0, "documents": 0, "duplicates": 0,
        "left_out": {"documents": 0, "bytes": 0}, "labels": {}, "splits": {},
    }  # fmt: skip
    write_description(folder, {
        "format": FORMAT, "fingerprint": "", "tokenizer": "", "vocabulary": 0, "mixture": "rates", "share": 0.1,
        "content": "",
        "sources": {name: {**source, **given} for name, given in sources.items()},  # pyright: ignore[reportAssignmentType]
    })  # fmt: skip


def write_sources(folder: Path) -> list[str]:
    """Two sources of 400 documents; returns the arguments of a run that reads them with a small vocabulary."""
    texts = [folder / f"{number}.jsonl" for number in range(2)]
    for number, text in enumerate(texts):
        lines = [json.dumps({"text": sentence}) for sentence in sentences(400, number)]
        text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [
        "--data.sources", *[f"files:{text}" for text in texts], "--data.validation", "tail 0.1",
        "--data.vocabulary", "512", "--data.prepared", str(folder / "prepared"),
    ]  # fmt: skip


LETTERS = train_characters(["abcdefghijklmnopqrstuvwxyz"], 400)


def text_of(rows: Sequence[Sequence[Sequence[int]]], T: int, seed: int = 0) -> Text:
    """Rows of pieces of token ids as a task gets them: whole documents, every token a word, the run at its start."""
    row_P = np.repeat(np.arange(len(rows)), list(map(len, rows)))
    length_P = np.array([len(piece) for row in rows for piece in row])
    number_P = np.arange(len(row_P))
    token_I = np.array([token for row in rows for piece in row for token in piece], np.int32)
    corpus = Corpus(("letters",), (), {"letters": {}}, LETTERS)
    return Text(
        corpus, T, np.zeros(len(rows)), row_P, np.zeros_like(row_P), number_P, np.cumsum(length_P) - length_P,
        np.full_like(row_P, -1), scramble(number_P, seed), length_P,
        token_I, np.full_like(token_I, WORD_START, np.uint8),
    )  # fmt: skip


def letters(length: int, seed: int = 0) -> list[int]:
    """A document of random letters, BOS and EOS among its `length` tokens."""
    middle = np.random.default_rng((length, seed)).integers(LETTERS.size - 26, LETTERS.size, length - 2)
    return [LETTERS.bos, *middle.tolist(), LETTERS.eos]
