"""Answers that a run writes while it trains, where stop.figure is a figure of them."""

from collections.abc import Callable
from typing import Any

from gptjax.evaluation.text_figures import text_figures
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.lora import merged
from train.assemble import Assembly, Text
from train.record.metrics import Answers
from train.tuning.replies import Speaker
from train.tuning.written import check_figure_of_answers, held_out_items, room_for

ANSWERED = 32  # held-out examples that are answered at each look


class StoppedWritingError(Exception):
    """A look was left before all answers were written."""


class Writing:
    """The most probable answers to some held-out examples, the same at every look and whoever resumes the run.

    Raises ValueError where they cannot be measured by the figure, none leaves room for an answer, and in a run of
    several processes.
    """

    def __init__(self, parts: Assembly, text: Text, figure: str):
        check_figure_of_answers(figure, text.prepared)
        self._parts, self._text, self._figure = parts, text, figure
        found = held_out_items(text.prepared, ANSWERED)
        items = [item for _, of_source in found.values() for item in of_source[: -(-ANSWERED // len(found))]]
        self._tokens = room_for(items, text.tokenizer)
        speaker = self._speaker(None)
        self._items = [item for item in items if speaker.has_room(item.messages, self._tokens)]
        if not self._items:
            raise ValueError(
                f"stop.figure={figure!r}: no held-out example leaves room for an answer of {self._tokens} tokens in "
                f"the context of {parts.config.T}; leave it out, and the loss decides"
            )

    def look(self, step: int, params: Any, progress: Callable[[], None]) -> Answers:
        """How good they are by now; `progress` is called after each answer, and what it raises ends the look."""
        asked = [item.messages for item in self._items]
        speaker = self._speaker(params)
        written = [text.strip() for text in speaker.write(asked, self._tokens, lambda *_: progress())]
        found = text_figures((self._figure,), written, [item.wanted for item in self._items])
        return Answers(step, self._figure, found[self._figure], len(written))

    def _speaker(self, params: Any) -> Speaker:
        """`params`: None = of a model that is only asked for its settings."""
        parts, talks = self._parts, self._text.generation_config
        whole, config = (None, parts.config) if params is None else merged(params, parts.config)
        return Speaker(LanguageModel(config, self._text.tokenizer, whole, generation_config=talks, mesh=parts.mesh))
