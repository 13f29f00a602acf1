"""Chat templates within bounds of time and memory: a stranger's runs in a process of its own, which can be ended."""

import functools
import queue
from collections.abc import Mapping, Sequence
from typing import Any

from gptjax.inference.chat import LINES, TURNS
from gptjax.inference.conversation import written
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.typed_text import texts_in
from gptjax.serving.children import Child, EndedError

SECONDS = 2.0  # for a conversation to be written
MEMORY = 2**29  # bytes
LONGEST_HERE = 50_000  # characters of a conversation; a million take our own templates seconds
CHILDREN = 2  # conversations that are written at once


def render_bounded(
    model: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    continues: bool = False,
) -> str:
    """What gptjax.inference.conversation.written gives; messages and tools as JSON has them.

    Blocks for up to SECONDS, so it is to be called in a thread. Our own templates write short conversations at once, in
    this process.

    Raises ValueError where the template refuses the conversation, and where it needs more time or memory than it may.
    """
    template = model.generation_config.chat_template
    length = sum(map(len, texts_in([messages, tools])))
    if template in (None, LINES, TURNS) and length <= LONGEST_HERE:
        return written(model, messages, tools=tools, continues=continues)
    asked = {
        "template": template or LINES,
        "names": dict(model.generation_config.names),
        "added_names": sorted(model.tokenizer.added_names),
        "special_names": sorted(model.tokenizer.special_names),
        "messages": messages,
        "tools": tools,
        "continues": continues,
    }
    found = _renderers().answer(asked)
    if "refused" in found:
        raise ValueError(found["refused"])
    return found["text"]


class Renderers:
    """Children that write conversations, started when they are needed; the one used last is used next."""

    def __init__(self):
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(CHILDREN):
            self._idle.put(None)

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        child = self._idle.get()
        try:
            if child is None or not child.lives:
                child = Child("gptjax.serving.render_child", MEMORY)
            return child.ask(asked, SECONDS)
        except EndedError as error:
            raise ValueError(
                f"the model's chat template {error}; it was ended while it wrote this conversation"
            ) from None
        finally:
            self._idle.put(child)


@functools.cache
def _renderers() -> Renderers:
    """Those of this process."""
    return Renderers()
