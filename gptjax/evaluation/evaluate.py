"""How good a model is: all evaluations, in one place. `docs/evaluation.md` shows how to use them.

A model is what `gptjax.load` returns. Items are dictionaries, as lines of a .jsonl file; `template` makes a prompt of
an item: fields in braces are put in. Intervals: gptjax.results.metric, with `seed`. `reading`: batch_tokens and
progress, as gptjax.inference.scoring.score takes them.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from gptjax.arguments import listed  # fmt: skip
from gptjax.evaluation.answers import exact_match, f1
from gptjax.evaluation.by_head import by_head
from gptjax.evaluation.items import (
    CONTEXT,
    DELIMITER,
    QUESTION,
    STOP,
    TEXT,
    TOKENS,
    Item,
    label_of,
    name_of,
    prompts,
    right_choice,
    texts_of,
    word_of_label,
)
from gptjax.inference.continuing import continued
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.scoring import Progress, ScoreOptions
from gptjax.inference.text_likelihood import (
    continuations,
    encoded_pairs,
    loglikelihood,
    loglikelihood_rolling,
    perplexity,
)
from gptjax.results import Result, mean_of, metric

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

__all__ = [
    "answer", "by_head", "classify", "classify_by_head", "continued", "loglikelihood", "loglikelihood_rolling",
    "multiple_choice", "perplexity",
]  # fmt: skip


classify_by_head = by_head  # its name when heads told nothing but classes


def multiple_choice(
    model: "LanguageModel",
    items: Iterable[Item],
    *,
    template: str = CONTEXT,
    delimiter: str = DELIMITER,
    seed: int = 0,
    **options: Unpack[ScoreOptions],
) -> Result:
    """How often the right one of an item's `choices` is the most probable behind its prompt.

    `answer` is the right one's number, from 0, or its text. `delimiter` stands between prompt and choice; "" for
    scripts without spaces. `accuracy` compares log-likelihoods, `accuracy by length` those divided by the characters of
    the choice: `acc` and `acc_norm` of lm_eval. Of equals, the first is chosen.
    An item: log_probs (nats), greedy (of each choice), chosen, chosen_by_length, answer, and its fields.
    """
    items = list(items)
    choices = [texts_of(item, number, "choices") for number, item in enumerate(items)]
    right = [right_choice(item, number, choices[number]) for number, item in enumerate(items)]
    found = _choose(model, items, template, delimiter, choices, **options)
    rows = [{**item, **judged, "answer": one} for item, judged, one in zip(items, found, right, strict=True)]
    metrics = {
        name: mean_of([row[chosen] == row["answer"] for row in rows], seed)
        for name, chosen in (("accuracy", "chosen"), ("accuracy by length", "chosen_by_length"))
    }
    counts = {"items": len(rows), "choices": sum(map(len, choices))}
    return Result(task="multiple choice", counts=counts, metrics=metrics, items=rows)


def _choose(
    model: "LanguageModel",
    items: Sequence[Item],
    template: str,
    delimiter: str,
    choices: Sequence[Sequence[str]],
    **options: Unpack[ScoreOptions],
) -> list[dict[str, Any]]:
    """What the model makes of each item's choices."""
    shown = prompts(items, template)
    pairs = [(prompt, delimiter + one) for prompt, each in zip(shown, choices, strict=True) for one in each]
    names = [
        f"{name_of(item, number)}, choice {choice}"
        for number, (item, each) in enumerate(zip(items, choices, strict=True))
        for choice in range(len(each))
    ]
    encoded = encoded_pairs(model, pairs, name=names.__getitem__)
    scores, found = iter(continuations(model, encoded, **options)), []
    for each in choices:
        log_probs, greedy = zip(*itertools.islice(scores, len(each)), strict=True)
        by_length = np.array(log_probs) / [max(1, len(one)) for one in each]
        found.append({
            "log_probs": list(log_probs), "greedy": list(greedy),
            "chosen": int(np.argmax(log_probs)), "chosen_by_length": int(np.argmax(by_length)),
        })  # fmt: skip
    return found


def classify(
    model: "LanguageModel",
    items: Iterable[Item],
    labels: Mapping[Any, str] | Sequence[Any],
    *,
    template: str = TEXT,
    delimiter: str = DELIMITER,
    seed: int = 0,
    **options: Unpack[ScoreOptions],
) -> Result:
    """How often the word for an item's `label` is the most probable one behind its prompt.

    `labels`: the words, or label -> word; numbers count as they are written. `macro F1` is the mean over classes, those
    of the items and those that were chosen. An item: log_probs (nats, of each word), chosen (a label), and its fields.
    """
    pairs = labels.items() if isinstance(labels, Mapping) else [(label, label) for label in listed(labels, "labels")]
    words = word_of_label(pairs)
    items = list(items)
    wanted = [label_of(item, number, list(words)) for number, item in enumerate(items)]
    found = _choose(model, items, template, delimiter, [list(words.values())] * len(items), **options)
    log_probs = [judged["log_probs"] for judged in found]
    return _classified("classification by words", items, list(words), wanted, log_probs, seed)


def _classified(
    task: str, items: Sequence[Item], labels: Sequence[str], wanted: list[int], log_probs: list[list[float]], seed: int
) -> Result:
    """The result, from the right class of every item and what the model thinks of each."""
    wanted_I = np.array(wanted)
    chosen_I = np.array([int(np.argmax(found)) for found in log_probs])

    def macro_f1(drawn: np.ndarray) -> float:
        right_C, wanted_C, chosen_C = (
            np.bincount(numbers, minlength=len(labels))
            for numbers in (wanted_I[drawn][wanted_I[drawn] == chosen_I[drawn]], wanted_I[drawn], chosen_I[drawn])
        )
        seen_C = wanted_C + chosen_C > 0
        return float((2 * right_C[seen_C] / (wanted_C + chosen_C)[seen_C]).mean())

    metrics = {
        "accuracy": mean_of(wanted_I == chosen_I, seed),
        "macro F1": metric(macro_f1, len(items), seed),
    }
    rows = [
        {**item, "log_probs": found, "chosen": labels[chosen]}
        for item, found, chosen in zip(items, log_probs, chosen_I, strict=True)
    ]
    counts = {"items": len(rows), "classes": len(labels)}
    return Result(task=task, counts=counts, metrics=metrics, items=rows)


def answer(
    model: "LanguageModel",
    items: Iterable[Item],
    *,
    template: str = QUESTION,
    tokens: int = TOKENS,
    stop: Sequence[str] = STOP,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """How often what the model says behind a prompt is one of the item's `answers`, a list of texts.

    It says the likeliest tokens, at most `tokens`, up to one of `stop`. `exact match` and `F1` as in
    gptjax.evaluation.answers: SQuAD's, on characters for Chinese. A prompt that leaves no room for so many tokens loses
    its beginning, see `continued`.
    An item: said, exact_match, f1, and its fields.
    """
    items, stop = list(items), tuple(listed(stop, "stop"))
    wanted = [texts_of(item, number, "answers") for number, item in enumerate(items)]
    encoded = encode_prompts(model.tokenizer, model.generation_config, prompts(items, template))
    said = continued(model, encoded, tokens=tokens, stop=stop, progress=progress)
    rows = [
        {**item, "said": text.strip(), "exact_match": exact_match(text, each), "f1": f1(text, each)}
        for item, text, each in zip(items, said, wanted, strict=True)
    ]
    metrics = {
        "exact match": mean_of([row["exact_match"] for row in rows], seed),
        "F1": mean_of([row["f1"] for row in rows], seed),
    }
    return Result(task="answers", counts={"items": len(rows)}, metrics=metrics, items=rows)
