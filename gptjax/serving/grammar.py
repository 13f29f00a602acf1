"""Texts of a given form: JSON, JSON of a schema, or what a regular expression matches, token by token.

What a client asks for may take any time and memory to compute, at its beginning and at every token. So it is computed
in processes of their own, one for each text that is written, by the library llguidance.
"""

import base64
import contextlib
import functools
import json
import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax.inference.language_model import LanguageModel
from gptjax.serving.children import Child, EndedError
from gptjax.text.tokenizer import Tokenizer

BUILD_SECONDS = 1.0  # for a form to be understood
STEP_SECONDS = 0.5  # for what may follow a token
FREE_SECONDS = 0.02  # of computing for a token; all texts wait for it
BUDGET_SECONDS = 2.0  # of computing beyond that, for all of a text
MEMORY = 2**29  # bytes
LONGEST = 2**17  # characters of a schema
LONGEST_REGEX = 2**12
KEPT = 8  # processes that wait for the next text


def grammar_of(form: Mapping[str, Any], model: LanguageModel) -> "FormGrammar":
    """The grammar of one text, by the engine's protocol.

    `form`: {"type": "json_object"}, {"type": "json_schema", "schema": ...} or {"type": "regex", "regex": ...}.
    Blocks for up to BUILD_SECONDS, so it is to be called in a thread.

    Raises ValueError where the form is not understood, or takes more time or memory than it may.
    """
    name, text, most = {
        "json_object": ("response_format", "", 1),
        "json_schema": ("response_format.json_schema.schema", json.dumps(form.get("schema"), allow_nan=False), LONGEST),
        "regex": ("regex", form.get("regex", ""), LONGEST_REGEX),
    }[form["type"]]
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters; at most {most} are read")
    children = _children(model.tokenizer, model.config.V, tuple(sorted(model.generation_config.ends)))
    try:
        children.check(json.dumps(form, allow_nan=False))
    except (ValueError, EndedError) as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())[:300]}") from None
    return FormGrammar(form, children)


class FormGrammar:
    """What a text may be that has a form: a Grammar of gptjax.decoding.engine.

    Its process is taken when the text begins, and given back by `close`, or when nothing asks for it any more.
    """

    def __init__(self, form: Mapping[str, Any], children: "Children"):
        self.ended, self._closed = False, True
        self._form, self._children = form, children
        self._child: Child | None = None
        self._allowed = b""
        self._left = BUDGET_SECONDS
        children.promise()
        self._closed = False

    def __del__(self):
        if not self._closed:  # this may come at any place of any thread: nothing may be locked here
            self._children.forgotten.put(self._child)

    def close(self) -> None:
        """The text is over. For the thread that it is written in."""
        if not self._closed:
            self._closed = True
            self._children.over(self._child)
            self._child = None

    def allowed(self) -> np.ndarray:
        if self._child is None:
            self._child = self._children.take()
            self._ask(self._form, BUILD_SECONDS)
        return np.frombuffer(self._allowed, np.int32)

    def take(self, id: int) -> None:
        self._ask(id, STEP_SECONDS)

    def _ask(self, asked: Any, seconds: float) -> None:
        assert self._child is not None
        try:
            said = self._child.ask(asked, seconds)
        except EndedError as error:
            raise ValueError(f"the form that was asked for {error}; the text was given up") from None
        if "refused" in said:
            raise ValueError(f"the form that was asked for cannot go on: {said['refused'][:300]}")
        self._left -= max(said["seconds"] - FREE_SECONDS, 0.0)
        if self._left < 0.0:
            raise ValueError(
                f"the form that was asked for takes more than {BUDGET_SECONDS:g} s in all; the text was given up"
            )
        self.ended, self._allowed = said["ended"], base64.b64decode(said["allowed"])
        if not self.ended and not any(self._allowed):
            raise ValueError("this model has no token for what the form asks for next")


class Children:
    """Processes that know a tokenizer: one for each text at work, and some that wait.

    They are started in the threads of those who ask, before their texts begin, so that the engine need not wait.
    """

    def __init__(self, spellings: list[bytes], ends: tuple[int, ...]):
        coded = [base64.b64encode(spelling).decode() for spelling in spellings]
        self._said_first = {"spellings": coded, "ends": list(ends)}
        self.forgotten: queue.SimpleQueue[Child | None] = queue.SimpleQueue()  # of grammars that nobody closed
        self._idle: queue.LifoQueue[Child] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._promised = self._alive = 0  # grammars that have not ended, processes for them
        self.check = functools.lru_cache(maxsize=256)(self._check)

    def promise(self) -> None:
        """Sees to it that there is a process for one more text."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.over(self.forgotten.get_nowait())
        with self._lock:
            self._promised += 1
        try:
            self._fill()
        except BaseException:
            self.over(None)
            raise

    def over(self, child: Child | None) -> None:
        """One that was promised is not needed any more: its process, if it had begun, is given back."""
        with self._lock:
            self._promised -= 1
        if child is not None:
            self.give_back(child)

    def take(self) -> Child:
        try:
            while not (child := self._idle.get_nowait()).lives:
                self._lost()
        except queue.Empty:
            child = self._started()
        return child

    def give_back(self, child: Child) -> None:
        if child.lives and self._idle.qsize() < max(KEPT, self._promised):
            self._idle.put(child)
            return
        child.end()
        self._lost()
        if self._promised:  # others wait, in a thread that shall not have to start one
            threading.Thread(target=self._fill, name="forms", daemon=True).start()

    def _fill(self) -> None:
        """Starts one if there are too few."""
        with self._lock:
            lacking = self._alive < min(self._promised, KEPT)
        if lacking:
            self._idle.put(self._started())

    def _check(self, form: str) -> None:
        """Raises ValueError or EndedError; what passed once is not built again."""
        child = self.take()
        try:
            said = child.ask(json.loads(form), BUILD_SECONDS)
            if "refused" in said:
                raise ValueError(said["refused"])
        finally:
            self.give_back(child)

    def _started(self) -> Child:
        with self._lock:
            self._alive += 1
        try:
            return Child("gptjax.serving.grammar_child", MEMORY, self._said_first)
        except BaseException:
            self._lost()
            raise

    def _lost(self) -> None:
        with self._lock:
            self._alive -= 1


@functools.lru_cache(maxsize=2)
def _children(tokenizer: Tokenizer, V: int, ends: tuple[int, ...]) -> Children:
    """Those of a tokenizer, whose ids up to V are no text."""
    spellings = [tokenizer.spelling(id) for id in range(tokenizer.size)]
    return Children([*spellings, *[b""] * (V - tokenizer.size)], ends)
