"""What the model writes: continuations of held-out documents' first words, kept in `samples.jsonl` for the report."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from data.description import read_prepared
from data.preparation.token_flags import SENTENCE_END, WORD_START
from data.token_store import TokenStore
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel, Sample

PROMPT_TOKENS, TOKENS = 12, 160
AT_ONCE = 32  # texts that are written beside each other: each takes memory for its keys and values
TEMPERATURE, TOP_P = 0.8, 0.95


def write_samples(
    run: Path, prepared: Path, model: LanguageModel, *, step: int, samples: int, seed: int, console: Console
) -> None:
    """Writes `samples` texts a source to samples.jsonl, after those of earlier steps; shows the first of each."""
    prompts: list[list[int]] = []
    sources = read_prepared(prepared)["sources"]
    for source in sources.values():
        prompts += _openings(prepared / source["folder"] / "validation", samples, model)
    at_once = min(AT_ONCE, len(prompts))
    texts = [text for few in itertools.batched(prompts, AT_ONCE) for text in _written(few, at_once, model, seed)]
    names = [name for name in sources for _ in range(samples)]
    path = run / "samples.jsonl"
    records = [
        {
            "step": step, "source": name, "language": sources[name]["language"],
            "prompt": model.tokenizer.decode(prompt), "text": sample.text,
            "temperature": TEMPERATURE, "top_p": TOP_P,
        }
        for name, prompt, (sample,) in zip(names, prompts, texts, strict=True)
    ]  # fmt: skip
    lines = [dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_whole(path, "".join(_earlier(path, step) + lines))  # before they are shown, which not every console can do
    for record in records[:: max(1, samples)]:
        console.print(
            f"\n[dim]{escape(record['source'])}[/]\n[bold]{escape(record['prompt'])}[/]{escape(record['text'])}",
            highlight=False,
        )


def _written(prompts: Sequence[list[int]], at_once: int, model: LanguageModel, seed: int) -> list[list[Sample]]:
    """A text for each of the prompts, which are filled up to the number that all batches have: one compilation."""
    filled = [*prompts, *[prompts[-1]] * (at_once - len(prompts))]  # no text depends on those beside it
    texts = model.generate(filled, tokens=TOKENS, temperature=TEMPERATURE, top_p=TOP_P, seed=seed)
    return texts[: len(prompts)]


def _earlier(path: Path, step: int) -> list[str]:
    """Lines of samples that were written at earlier steps; a run may come to its end twice."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:  # not splitlines(), which also breaks where a sample has U+2028
        return [line for line in file if json.loads(line)["step"] < step]


def _openings(folder: Path, count: int, model: LanguageModel) -> list[list[int]]:
    """The first words of `count` documents spread over a split; where there are too few, of sentences.

    The end of a document that was cut in two is no document.
    """
    store = TokenStore(folder)
    begins = store.offset_D[:-1][store.tokens[store.offset_D[:-1]] == model.tokenizer.bos]
    if len(begins) < count:
        begins = _sentences(store)
    first = begins[np.linspace(0, len(begins) - 1, count).astype(int)]
    last = store.offset_D[np.searchsorted(store.offset_D, first, side="right")] - 1  # without EOS
    size = min(PROMPT_TOKENS + 1, model.config.T)
    prompts = [store.tokens[begin : min(begin + size, end)].tolist() for begin, end in zip(first, last, strict=True)]
    for prompt in prompts:  # a prompt ends in a whole character
        while len(prompt) > 1 and model.tokenizer.decode(prompt).endswith("\N{REPLACEMENT CHARACTER}"):
            prompt.pop()
    return prompts


def _sentences(store: TokenStore) -> np.ndarray:
    """The tokens at which documents and sentences begin, in order; i64."""
    marks = np.asarray(store.marks)
    ends, words = np.flatnonzero(marks & SENTENCE_END), np.flatnonzero(marks & WORD_START)
    after = np.searchsorted(words, ends, side="right")
    return np.union1d(store.offset_D[:-1], words[after[after < len(words)]])
