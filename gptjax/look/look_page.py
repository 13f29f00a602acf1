"""What was seen, as one page of HTML that asks for nothing outside. Does not import JAX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.files.plain_json import dumps
from gptjax.look.attention_bytes import packed
from gptjax.look.head_roles import ENOUGH, ROLES
from gptjax.look.pieces import Piece, token_label

if TYPE_CHECKING:
    from gptjax.look.causes import Causes
    from gptjax.look.head_evidence import HeadEvidence
    from gptjax.look.looking import Look, Way

TEMPLATE = Path(__file__).with_name("look.html")
PLACE = "{}/*what was seen*/"  # in the template
DIGITS = 4  # of numbers on the page


def page(look: "Look", name: str) -> str:
    """The template with what was seen in it; no text of a model or a person can end the element that holds it."""
    content = dumps(seen(look, name), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
    return before + content + after


def seen(look: "Look", name: str) -> dict[str, Any]:
    """What the page's program reads."""
    model, asked = look.model, look.asked
    return {
        "model": {
            "name": name,
            "step": model.step,
            "parameters": model.config.parameters,
            "layers": model.config.L,
            "heads": model.config.N,
            "window": model.config.window,
            "dtype": model.dtype,
        },
        "layers": asked.layers,
        "heads": asked.heads,
        "pieces": [_piece(piece) for piece in look.pieces],
        "words": _words(look),
        "next": {"ids": look.next.ids_RK.tolist(), "shares": _rounded(look.next.prob_RK)},
        "lens": {
            "places": look.lens.places,
            "ids": look.lens.ids_CPK.tolist(),
            "shares": _rounded(look.lens.prob_CPK),
            "came": _rounded(np.exp(look.lens.log_prob_CP)),
        },
        "ways": [_way(way) for way in look.ways],
        "attention": packed([way.prob_CnTS for way in look.ways]),
        "roles": ROLES,
        "enough": ENOUGH,
        "why": {
            "place": asked.token,
            "id": look.token,
            "nats": round(-look.log_prob, DIGITS),
            **_causes(look.causes),
        },
        "evidence": [_evidence(one) for one in look.evidence],
        "left_out_heads": look.heads_left_out,
    }


def _piece(piece: Piece) -> list[Any]:
    return [piece.id, piece.text, piece.parts, int(piece.special)]


def _words(look: "Look") -> dict[int, str]:
    """What every token shows as that stands in a table."""
    used = {look.token, *look.next.ids_RK.ravel().tolist(), *look.lens.ids_CPK.ravel().tolist()}
    return {id: token_label(look.model.tokenizer, id) for id in sorted(used)}


def _way(way: "Way") -> dict[str, Any]:
    return {
        "view": way.view,
        "nats": None if way.nats_T is None else _rounded(way.nats_T),
        "roles": [[role.name, {name: round(score, 3) for name, score in role.scores.items()}] for role in way.roles],
    }


def _causes(causes: "Causes") -> dict[str, Any]:
    return {"gradient": _rounded(causes.gradient_T), "left_out": _rounded(causes.left_out_T)}


def _evidence(one: "HeadEvidence") -> dict[str, Any]:
    return {
        "head": one.head,
        "kind": one.kind,
        "answer": one.prediction.answer,
        "probabilities": {name: round(value, DIGITS) for name, value in one.prediction.probabilities.items()},
        "cut": one.prediction.cut,
        "about": one.about,
        "pieces": [_piece(piece) for piece in one.pieces],
        **_causes(one.causes),
    }


def _rounded(numbers: np.ndarray) -> list[Any]:
    return np.round(numbers.astype(np.float64), DIGITS).tolist()
