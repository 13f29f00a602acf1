"""What a tuned model writes where one answer is right: figures on held-out examples beside those of cheap baselines."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data.description import read_prepared
from data.examples.preparing import TALKS, forms_of
from data.preparation.token_flags import sentence_ends
from gptjax.evaluation.text_figures import NEEDS, computable, figures_of, text_figures
from gptjax.text.tokenizer import Tokenizer
from train.tuning.replies import Speaker
from train.tuning.retrieval import Lookup, training_pairs

LONGEST, SHOWN = 256, 10  # tokens of an answer; examples that are shown
AFTER, BEFORE = "after", "before"
COPY, FIRST, LOOKED_UP = "copy of the source", "its first sentence", "answer to the nearest training example"


class Item(NamedTuple):
    """A held-out example: one question, one right answer."""

    source: str  # as the model reads it
    wanted: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.source}]


def held_out_items(prepared: Path, count: int) -> dict[str, tuple[str, list[Item]]]:
    """Source -> (its form, `count` held-out examples, spread over them), of those whose form has one right answer."""
    found, forms = {}, forms_of(prepared)
    for name, source in read_prepared(prepared)["sources"].items():
        if not source.get("whole") or not figures_of(forms.get(name)):
            continue
        lines = (prepared / source["folder"] / "validation" / TALKS).read_text(encoding="utf-8").split("\n")
        talks = [json.loads(line)["messages"] for line in lines if line]
        items = [Item(talk[-2]["content"], talk[-1]["content"]) for talk in talks if len(talk) == 2]
        chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)) if items else ()
        if len(chosen):
            found[name] = (str(forms[name]), [items[number] for number in chosen])
    return found


def written_figures(
    prepared: Path, speakers: dict[str, Speaker], count: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """What `written.json` holds, by source: figures of what the speakers write, of the cheap baselines, and examples.

    Examples that leave a model no room for an answer are left out, counted.
    """
    made = {}
    for name, (form, items) in held_out_items(prepared, count).items():
        tokenizer = speakers[AFTER].model.tokenizer
        tokens = room_for(items, tokenizer)
        fitting = [
            item for item in items if all(speaker.has_room(item.messages, tokens) for speaker in speakers.values())
        ]
        if not fitting:
            say(f"{name}: no held-out example leaves room for an answer of {tokens} tokens, so none is measured")
            continue
        pairs = training_pairs(prepared, name, tokenizer)
        lookup = Lookup([asked for asked, _ in pairs])
        texts = {
            who: [text.strip() for text in speaker.write([item.messages for item in fitting], tokens)]
            for who, speaker in speakers.items()
        } | {
            COPY: [item.source for item in fitting],
            FIRST: [first_sentence(item.source) for item in fitting],
            LOOKED_UP: [pairs[lookup.nearest(item.source)][1] for item in fitting],
        }
        wanted, names = [item.wanted for item in fitting], computable(figures_of(form))
        made[name] = {
            "form": form, "step": speakers[AFTER].model.step, "tokens": tokens,
            "items": len(fitting), "left_out": len(items) - len(fitting),
            "figures": {who: text_figures(names, written, wanted) for who, written in texts.items()},
            "samples": [
                {"source": item.source, "wanted": item.wanted, **{who: texts[who][number] for who in speakers}}
                for number, item in enumerate(fitting[:SHOWN])
            ],
        }  # fmt: skip
    return made


def room_for(items: Sequence[Item], tokenizer: Tokenizer) -> int:
    """Tokens that an answer may have: half as many again as the longest that is wanted, and a few."""
    longest = max(map(len, tokenizer.encode_batch([item.wanted for item in items])))
    return min(LONGEST, 16 + longest * 3 // 2)


def first_sentence(text: str) -> str:
    """Of its first paragraph."""
    text = text.strip()
    ends = sentence_ends([text])
    return text[: int(ends[0]) + 1] if len(ends) else text


def behind(figures: dict[str, dict[str, float]]) -> list[str]:
    """Where a baseline is as good as the tuned model, or better; a line each."""
    return [
        f"{who}: {name} {figures[who][name]:.1f}, not less than {value:.1f}"
        for name, value in figures[AFTER].items()
        for who in figures
        if who != AFTER and figures[who][name] >= value
    ]


def check_figure_of_answers(figure: str, prepared: Path) -> None:
    """Raises ValueError where held-out examples cannot be measured by this figure of written answers, and in a run of
    several processes."""
    if jax.process_count() > 1:
        raise ValueError(
            f"stop.figure={figure!r}: one process alone writes answers, and this run has {jax.process_count()}; leave "
            "it out, and the loss decides"
        )
    figures_by_form = {form: names for form in {*forms_of(prepared).values()} if (names := figures_of(form))}
    if not figures_by_form:
        raise ValueError(
            f"stop.figure={figure!r}: needs examples with one right answer, of the form source_target or "
            "question_answer; leave it out, and the loss decides"
        )
    for form, names in figures_by_form.items():
        if figure not in names:
            raise ValueError(
                f"stop.figure={figure!r}: does not fit examples of the form {form}; one of {', '.join(names)}"
            )
    if not computable((figure,)):
        raise ValueError(f"stop.figure={figure!r}: is computed by sacrebleu, which is not installed: {NEEDS}")
    if not held_out_items(prepared, 1):
        raise ValueError(
            f"stop.figure={figure!r}: no held-out example is one question and its answer; give more examples"
        )
