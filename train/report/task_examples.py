"""What a model answers where its tasks ask: a few held-out examples of each, kept in `task_examples.json`.

Axes: R rows  T position  Q sequence-level targets.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TypedDict

import jax
import numpy as np

from data.rows.rows import Builder, HeldOutRows, Rows, open_corpus
from data.tasks.task import Corpus, Task
from gptjax.batch import Batch, ClassHead
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.likelihood import chunks_for
from gptjax.nn.model import Transformer
from gptjax.sharding import row_ways
from gptjax.text.tokenizer import Tokenizer
from train.losses.accuracy import Classified
from train.losses.table import loss_named
from train.losses.terms import term_answers
from train.objectives import Term
from train.report.preview import words

SHOWN = 3  # examples of a term, each of another source where it reads several
LOOKED_AT = 8  # rows of a source, of which the first with a target is its example
BEFORE, LONGEST = 16, 48  # tokens that are shown: before the first target, and in all


class Part(TypedDict, total=False):
    """A stretch of an example: text that is read, and where something is asked, the answer and the right one."""

    text: str
    said: str
    right: str
    is_right: bool


class Example(TypedDict):
    """What a model reads, and what it answers there."""

    source: str
    parts: list[Part]


def write_task_examples(run: Path, prepared: Path, rows: Rows, terms: Sequence[Term], model: LanguageModel) -> None:
    """Writes `task_examples.json`: term -> examples, of sources that are spread over all in which it finds one.

    Tasks that continue a text have none, as samples show that; nor have terms that no token or class answers.
    """
    corpus = open_corpus(prepared, "validation")
    builder = Builder(corpus, rows.builder.tasks, rows.T)
    found: dict[str, list[Example]] = {}
    for name, task in rows.trained.items():
        own = [term for term in terms if term.task == builder.id_of(name) and _is_class(term)]
        if own and not task.generates:
            found |= _examples_of(name, own, rows, builder, corpus, model)
    chosen = {
        name: [of_sources[place] for place in sorted({*np.linspace(0, len(of_sources) - 1, SHOWN).round().astype(int)})]
        for name, of_sources in found.items()
        if of_sources
    }
    file = run / "task_examples.json"
    if chosen:
        write_whole(file, dumps(chosen, ensure_ascii=False, indent=1) + "\n")
    else:
        file.unlink(missing_ok=True)


def _is_class(term: Term) -> bool:
    return isinstance(loss_named(term.loss), Classified)


def _examples_of(
    name: str, terms: Sequence[Term], rows: Rows, builder: Builder, corpus: Corpus, model: LanguageModel
) -> dict[str, list[Example]]:
    """Of each of a task's terms an example of every source that has one."""
    found: dict[str, list[Example]] = {term.name: [] for term in terms}
    heads, network = list(builder.heads.values()), Transformer(model.config)
    with model.on_mesh():
        count = row_ways() * -(-LOOKED_AT // row_ways())
        chunks = chunks_for(count, rows.T, model.config.V)
        answers = jax.jit(lambda params, batch: term_answers(params, network, batch, terms, chunks))
        for source in rows.reads[name]:
            held_out = HeldOutRows(corpus, corpus.sources.index(source), builder, name, rows.T, count)
            batch = held_out.batch(np.arange(count) % held_out.count)
            said = jax.device_get(answers(model.params, batch))
            for term in terms:
                head = None if term.head is None else heads[term.head]
                if head is None or term.loss == Task.loss:
                    parts = _of_tokens(batch, said[term.name], head, model.tokenizer)
                else:
                    parts = _of_segment(batch, said[term.name], heads.index(head), head, model.tokenizer)
                if parts:
                    found[term.name].append({"source": source, "parts": parts})
    return found


def _of_tokens(batch: Batch, said_RT: np.ndarray, head: ClassHead | None, tokenizer: Tokenizer) -> list[Part]:
    """The first segment in which tokens are asked for, or places of them; nothing where none is."""
    row_M, column_M = np.nonzero(batch.weights_BT)
    if not len(row_M):
        return []
    row = row_M[0]
    own_T = batch.segment_BT[row] == batch.segment_BT[row, column_M[0]]
    asked_T, said_T, right_T = (batch.weights_BT[row] > 0) & own_T, said_RT[row], batch.targets_BT[row]
    if head is None:  # the state before a token says what it is
        asked_T, said_T, right_T = (np.roll(array_T, 1) for array_T in (asked_T, said_T, right_T))
    place_I = np.flatnonzero(own_T)
    begin = max(place_I[0], np.flatnonzero(asked_T)[0] - BEFORE)
    end = min(place_I[-1] + 1, begin + LONGEST)

    def told(ids: np.ndarray) -> str:
        return _text(tokenizer, ids) if head is None else " ".join(head.classes[id] for id in ids)

    parts: list[Part] = []
    for is_asked, run in groupby(range(begin, end), key=lambda t: bool(asked_T[t])):
        here = list(run)
        parts.append({"text": _text(tokenizer, batch.tokens_BT[row, here])})
        if is_asked:
            is_right = bool((said_T[here] == right_T[here]).all())  # bytes of characters may look alike
            parts[-1] |= {"said": told(said_T[here]), "right": told(right_T[here]), "is_right": is_right}
    return _cut(parts, begin > place_I[0], end <= place_I[-1])


def _of_segment(batch: Batch, said_RQ: np.ndarray, number: int, head: ClassHead, tokenizer: Tokenizer) -> list[Part]:
    """The first segment of which a head tells something: its end, of a long pair what stands where its parts meet."""
    row_M, slot_M = np.nonzero((batch.label_weight_BQ > 0) & (batch.head_BQ == number))
    if not len(row_M):
        return []
    row, slot = row_M[0], slot_M[0]
    at = batch.at_BQ[row, slot]
    place_I = np.flatnonzero(batch.segment_BT[row] == batch.segment_BT[row, at])
    begin = max(place_I[0], at - LONGEST // 2 if head.pair else place_I[-1] + 1 - LONGEST)
    end = min(place_I[-1] + 1, begin + LONGEST)
    said, right = said_RQ[row, slot], batch.label_BQ[row, slot]
    told: Part = {"said": head.classes[said], "right": head.classes[right], "is_right": bool(said == right)}
    parts = _cut([{"text": _text(tokenizer, batch.tokens_BT[row, begin:end])}], begin > place_I[0], end <= place_I[-1])
    return [*parts, {"text": "", **told}]


def _cut(parts: list[Part], before: bool, behind: bool) -> list[Part]:
    """Marks where more of a text was read than is shown."""
    mark: Part = {"text": "…"}
    return [*([mark] if before else []), *parts, *([mark] if behind else [])]


def _text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return "".join(text for text, _ in words(tokenizer, ids.tolist()))
