"""How good an output head is on labelled items, whatever it tells: classes, labels, numbers.

Axes: I items  C classes or labels of the head; one of a number.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np
from jaxtyping import Float

from gptjax.batch import ClassHead
from gptjax.evaluation.head_figures import figures
from gptjax.evaluation.items import SECOND, TEXT, Item, label_of, labels_of, prompts, value_of
from gptjax.inference.head_input import TextOrTwo, head_named
from gptjax.inference.predicting import judged, read_by_head
from gptjax.inference.scoring import ScoreOptions
from gptjax.results import Metric, Result, metric

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

NAMES = {  # of figures, as results have them
    "accuracy": "accuracy", "macro_f1": "macro F1", "micro_f1": "micro F1", "all_right": "all labels right",
    "mse": "MSE", "mae": "MAE", "r2": "R2", "pearson": "Pearson", "spearman": "Spearman",
    "nll": "nats a target", "ece": "calibration error",
}  # fmt: skip


def by_head(
    model: "LanguageModel", items: Iterable[Item], head: str, *, template: str = TEXT, second: str = SECOND,
    truth: str | None = None, seed: int = 0, **options: Unpack[ScoreOptions],
) -> Result:  # fmt: skip
    """How right a head of the model is. An item has what it tells: `label`, `labels` (a list, or text such as
    "red|round") or `value`, a number; or has it in the field `truth`, of which a.b leads into objects.

    `template` makes the text of an item, `second` the second one for a head that reads two; both are read as the head
    was taught, and lose their end where they are too long: the counts say how many did. The figures are those of
    gptjax.evaluation.head_figures. An item: answer, its fields, of classes and labels `probabilities`, of classes
    `log_probs` (nats) and `chosen` too, and `cut` where it lost its end.
    Raises ValueError for a head that the model has not, `second` where the head reads one text, and an item without
    text or with a label that it has not.
    """
    items = list(items)
    one = model.config.class_heads[head_named(model.config.class_heads, head)]
    if second != SECOND and not one.two:
        raise ValueError(f"second {second}: head {one.name!r} reads one text; leave it out")
    true_IC = _truth(one, items, truth)
    firsts = prompts(items, template)
    texts: Sequence[TextOrTwo] = [*zip(firsts, prompts(items, second), strict=True)] if one.two else firsts
    number, inputs = read_by_head(model, texts, head)
    told_IC = model.class_log_probs([each.ids for each in inputs], number, **options)
    kind = "values" if one.tells_number else one.kind
    found_IC = told_IC if one.tells_number else np.exp(told_IC.astype(np.float64))
    rows = []
    for item, said, told_C in zip(items, judged(one, told_IC, inputs), told_IC, strict=True):
        row = {**item, "answer": said.answer} | ({"probabilities": said.probabilities} if said.probabilities else {})
        row |= {"log_probs": told_C.tolist(), "chosen": said.answer} if kind == "classes" else {}
        rows.append(row | ({"cut": True} if said.cut else {}))
    cut = sum(each.cut for each in inputs)
    counts = {"items": len(rows), kind: len(one.classes)} | ({"cut": cut} if cut else {})
    told_by = f"classification by head {head}" if kind == "classes" else f"{kind} by head {head}"
    metrics = intervals(lambda drawn: figures(kind, found_IC[drawn], true_IC[drawn]), len(rows), seed)
    return Result(task=told_by, counts=counts, metrics=metrics, items=rows)


def intervals(of: Callable[[np.ndarray], dict[str, float]], items: int, seed: int) -> dict[str, Metric]:
    """`gptjax.results.metric` of several figures at once, each draw of items measured once."""
    known: dict[int, dict[str, float]] = {}  # by hash: the draws of all are the same, as their seed is

    def measured(drawn: np.ndarray) -> dict[str, float]:
        draw = hash(drawn.tobytes())
        if draw not in known:
            known[draw] = of(drawn)
        return known[draw]

    if not items:
        raise ValueError("there are no items to evaluate")
    every = measured(np.arange(items))
    return {NAMES[name]: metric(lambda drawn, name=name: measured(drawn)[name], items, seed) for name in every}


def _truth(head: ClassHead, items: Sequence[Item], name: str | None) -> Float[np.ndarray, "I C"]:
    """1 at the class or at each label, else 0; the number."""
    true_IC = np.zeros((len(items), len(head.classes)))
    for number, item in enumerate(items):
        if head.tells_number:
            true_IC[number, 0] = value_of(item, number, name or "value")
        elif head.kind == "labels":
            true_IC[number, labels_of(item, number, head.classes, name or "labels")] = 1
        else:
            true_IC[number, label_of(item, number, head.classes, name or "label")] = 1
    return true_IC
