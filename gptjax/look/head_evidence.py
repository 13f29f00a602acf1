"""What an output head tells of a text, and which of its tokens speak for that.

Axes: B batch  T position  C classes of the head.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.inference.class_scoring import told
from gptjax.inference.head_input import fitted
from gptjax.inference.predicting import Prediction, judged, read_by_head
from gptjax.look.causes import Causes, leave_out
from gptjax.look.pieces import Piece, pieces
from gptjax.nn.decoding_weights import rows_of
from gptjax.nn.model import Transformer

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class HeadEvidence:
    """One head's judgement of the text, read as it was taught."""

    head: str
    kind: str  # classes, labels or values
    prediction: Prediction
    about: str  # whose evidence it is: a class or label, in nats; or the number, in its own units
    pieces: list[Piece]  # what the head read
    causes: Causes


def heads_evidence(
    model: "LanguageModel", network: Transformer, params: Any, text: str, work: float, tried: int | None = None
) -> tuple[list[HeadEvidence], list[str]]:
    """(what every head of one text tells, and why; the names of heads that are left out: they read something else).

    `work`: operations that leaving tokens out may take, for each head; `tried`: how many are left out instead.
    """
    found, others = [], []
    for head in model.config.class_heads:
        if head.two or not head.of_texts or not text.strip():
            others.append(head.name)
        else:
            found.append(_evidence(model, network, params, text, head.name, work, tried))
    return found, others


def _evidence(model, network, params, text, name, work, tried) -> HeadEvidence:
    number, [read] = read_by_head(model, [text], name)
    head = fitted(model.config.class_heads[number], model.config.T)
    log_probs_1C = model.class_log_probs([read.ids], number)
    [prediction] = judged(head, log_probs_1C, [read])
    best = int(log_probs_1C[0].argmax())
    ids_BT = np.array([read.ids], np.int32)
    length_B = np.array([len(read.ids)], np.int32)
    gradient_T = np.asarray(_gradient(network, params, ids_BT, length_B, best, head=number))
    quick = int(work / (model.config.flops_per_token / 3 * len(read.ids))) if tried is None else tried
    ends = (0, len(read.ids) - 1)  # BOS and EOS, which every text has

    def score(texts):
        return model.class_log_probs(texts, number)[:, best]

    causes = leave_out(read.ids, gradient_T, float(log_probs_1C[0, best]), quick, score, fixed=ends)
    about = head.classes[best] if not head.tells_number else head.name
    return HeadEvidence(name, head.kind, prediction, about, pieces(model.tokenizer, read.ids), causes)


@functools.partial(jax.jit, static_argnames=("model", "head"))
def _gradient(model, params, ids_BT, length_B, best, *, head):
    embedded_BTD = rows_of(params["embedding"], ids_BT, model.dtype)

    def of(shift_BTD):
        return told(model, params, ids_BT, length_B, head, shift_BTD)[0, best]

    slope_BTD = jax.grad(of)(jnp.zeros_like(embedded_BTD))
    return jnp.sum(slope_BTD * embedded_BTD, axis=-1, dtype=jnp.float32)[0]
