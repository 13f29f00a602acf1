"""A look into a model over one text: everything that the page shows, as arrays.

Axes: T position (of a query)  S key position  C layers that were asked for  n heads that were asked for.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.files.atomic_file import write_whole
from gptjax.files.places import expanded
from gptjax.inference.scoring import NOT_NUMBERS, View
from gptjax.look.asking import LEFT_OUT_WORK, Asked, asked
from gptjax.look.causes import Causes, leave_out, token_rows
from gptjax.look.head_evidence import HeadEvidence, heads_evidence
from gptjax.look.head_roles import HeadRole, head_roles, probe
from gptjax.look.hook import Seen, read
from gptjax.look.lens import Lens, Likeliest, logit_lens, next_tokens
from gptjax.look.look_page import page
from gptjax.look.pieces import Piece, pieces
from gptjax.nn.model import Transformer

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Way:
    """What one way of reading the text showed."""

    view: View
    prob_CnTS: np.ndarray  # f32: attention; a row sums to 1, and what a token may not see is 0
    roles: list[HeadRole]  # of every head that was asked for, layer by layer
    # Nats of each token: causal from those before it; from both sides where it alone is hidden. NaN where nobody
    # predicted it; None where hiding every token in turn would take too long.
    nats_T: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Look:
    """What was seen; `save` writes it as a page."""

    model: "LanguageModel" = dataclasses.field(repr=False)
    asked: Asked
    pieces: list[Piece]
    ways: list[Way]  # causal first; from both sides too, where the model may have learnt that
    next: Likeliest  # what would come behind every token, causally
    lens: Lens
    token: int  # the id whose causes were looked for
    log_prob: float  # nats: of it behind the text before it
    causes: Causes  # of that, over the tokens before it
    evidence: list[HeadEvidence]
    heads_left_out: list[str]  # output heads that do not read such a text

    def page(self, name: str = "a model") -> str:
        """The page, as HTML that asks for nothing outside."""
        return page(self, name)

    def save(self, path: str | os.PathLike[str], name: str = "a model") -> Path:
        """Writes the page; the file appears whole, or not at all."""
        target = expanded(path)
        write_whole(target, self.page(name))
        return target


def look(
    model: "LanguageModel", network: Transformer, params: Any, text: str | Sequence[int], *,
    layers: Sequence[int] | None = None, heads: Sequence[int] | None = None, token: int | None = None,
    leave_out: int | None = None,
) -> Look:  # fmt: skip
    """Looks into the model while it reads a text, or token ids as they are, which no output head tells of.

    `layers`, `heads`: whose attention is kept, None = all. `token`: number of the token whose causes are looked for,
    from 1; as many as the text has = the likeliest that would follow; None = this one. `leave_out`: how many tokens
    before it are left out in turn, the strongest by gradient first; None = as many as take a second or two.

    Raises ValueError as gptjax.look.asking.asked does, before anything slow; for a model that is spread over a mesh;
    and where scores are no numbers.
    """
    if model.mesh is not None:
        raise ValueError("look: reads on one device, and this model is spread over a mesh; load it without one")
    wanted = asked(
        model.config, model.tokenizer, model.generation_config, text, layers=layers, heads=heads, token=token,
        leave_out=leave_out,
    )  # fmt: skip
    ids, size = wanted.ids, len(wanted.ids)
    target = ids[wanted.token] if wanted.token < size else None
    at = wanted.token - 1
    seen = read(network, params, ids, wanted.layers, wanted.heads, at=at, token=target, explains=True)
    if not np.isfinite(seen.log_prob):
        raise ValueError(f"the model's scores of this text {NOT_NUMBERS}")
    following = next_tokens(network, params, seen.hidden_TD, ids)
    nats_T = np.concatenate([[np.nan], -following.log_prob_R[:-1]])
    came = [(*ids, -1)[place + 1] for place in wanted.lens]
    lens = logit_lens(network, params, seen.state_CTD, wanted.lens, came)
    ways = [Way("causal", seen.prob_CnTS, _roles(model, network, params, wanted, False), nats_T)]
    if wanted.both:
        ways.append(_from_both_sides(model, network, params, wanted))
    read_by_heads = text if isinstance(text, str) else ""  # they read whole texts
    evidence, others = heads_evidence(model, network, params, read_by_heads, LEFT_OUT_WORK, leave_out)
    return Look(
        model=model,
        asked=wanted,
        pieces=pieces(model.tokenizer, ids),
        ways=ways,
        next=following,
        lens=lens,
        token=seen.token,
        log_prob=seen.log_prob,
        causes=_causes(model, wanted, seen),
        evidence=evidence,
        heads_left_out=others,
    )


def _roles(model, network, params, wanted: Asked, both: bool) -> list[HeadRole]:
    ids = probe(model.tokenizer, model.config.T, model.config.vocabulary)
    prob_CnTS = read(network, params, ids, wanted.layers, wanted.heads, both=both).prob_CnTS
    return head_roles(prob_CnTS, ids, wanted.layers, wanted.heads, both)


def _from_both_sides(model, network, params, wanted: Asked) -> Way:
    prob_CnTS = read(network, params, wanted.ids, wanted.layers, wanted.heads, both=True).prob_CnTS
    nats_T = None
    if wanted.hides:
        [log_probs] = model.log_probs([wanted.ids], view="bidirectional")
        nats_T = np.concatenate([[np.nan], -log_probs])
    return Way("bidirectional", prob_CnTS, _roles(model, network, params, wanted, True), nats_T)


def _causes(model, wanted: Asked, seen: Seen) -> Causes:
    assert seen.gradient_T is not None
    context = wanted.ids[: wanted.token]

    def score(texts):
        return np.array([float(found.log_probs[0]) for found in model.score(token_rows(texts, seen.token))])

    return leave_out(context, seen.gradient_T[: wanted.token], seen.log_prob, wanted.leave_out, score)
