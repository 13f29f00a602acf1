"""A small prepared folder made by hand, document by document, so that a test knows every token of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.holdout import text_hash
from data.spec import DataSpec
from gptjax.tokenizer import Tokenizer, train_characters

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


def write_split(folder: Path, tokenizer: Tokenizer, documents: Sequence[str]) -> None:
    """One split of one source, in the layout of data.prepare."""
    folder.mkdir(parents=True)
    ids = [[tokenizer.bos, *tokenizer.encode(text), tokenizer.eos] for text in documents]
    np.array([id for document in ids for id in document], "<u2").tofile(folder / "tokens.bin")
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
    np.save(folder / "bytes.npy", np.array([len(text.encode()) for text in documents], np.int32))
    np.save(folder / "hashes.npy", np.array([text_hash(text.encode()) for text in documents], np.uint64))


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
    described = {name: {"folder": name, "rate": rates[name], "language": "en"} for name in sources}
    (folder / "prepared.json").write_text(json.dumps({"sources": described}))
    tokenizer.save(folder / "tokenizer.json")
    return folder
