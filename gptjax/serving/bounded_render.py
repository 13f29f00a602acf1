"""Chat templates within bounds of time and memory: a stranger's runs in a process of its own, which can be ended."""

import atexit
import contextlib
import functools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gptjax.inference.chat import LINES, TURNS
from gptjax.inference.conversation import written
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.typed_text import texts_in

SECONDS = 2.0  # for a conversation to be written
START_SECONDS = 60.0  # for a process to start, on a machine that is busy
MEMORY = 2**29  # bytes beyond what the process needs to be there
LONGEST = 2**24  # bytes of what is written
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
    found = _children().answer(asked)
    if "refused" in found:
        raise ValueError(found["refused"])
    return found["text"]


@functools.cache
def _children() -> "Children":
    """Those of this process."""
    children = Children()
    atexit.register(children.close)
    return children


class Children:
    """Processes that write conversations, started when they are needed; the one used last is used next."""

    def __init__(self):
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(CHILDREN):
            self._idle.put(None)

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        child = self._idle.get()
        try:
            if child is None or not child.lives:
                child = Child()
            return child.answer(asked)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        for _ in range(CHILDREN):
            if (child := self._idle.get()) is not None:
                child.end()
            self._idle.put(None)


class Child:
    """One such process: see gptjax.serving.render_child."""

    def __init__(self):
        command = [sys.executable, "-P", "-m", "gptjax.serving.render_child", str(MEMORY), str(int(SECONDS))]
        pipe = subprocess.PIPE
        # its last words may hold what somebody said, and go nowhere
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        with self._ended_after(START_SECONDS):
            self._read()
        if not self.lives:
            self.end()
            raise RuntimeError(f"the process for chat templates does not start: {' '.join(command)}")

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError where the process had to be ended, or ended by itself."""
        with self._ended_after(SECONDS) as late:
            line = self._asked(asked)
        if line.endswith(b"\n"):
            return json.loads(line)
        self.end()
        if late.is_set():
            why = f"takes more than {SECONDS:g} s to write this conversation"
        elif len(line) == LONGEST:
            why = f"writes more than {LONGEST >> 20} MiB of text"
        else:
            why = f"needs more than {MEMORY >> 20} MiB of memory to write this conversation"
        raise ValueError(f"the model's chat template {why}; it was ended")

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _asked(self, asked: Mapping[str, Any]) -> bytes:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(asked).encode() + b"\n")
            stream.flush()
        except BrokenPipeError:
            return b""
        return self._read()

    def _read(self) -> bytes:
        """A line, or what there is of it."""
        stream = self._process.stdout
        assert stream is not None
        return stream.readline(LONGEST)

    @contextlib.contextmanager
    def _ended_after(self, seconds: float) -> Iterator[threading.Event]:
        """Ends the process when what is done here lasts longer; the event says whether it was."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            timer.join()
