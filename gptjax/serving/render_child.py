"""The process that runs a stranger's chat template: a line of JSON in, a line out. Does not import JAX.

Started by gptjax.serving.bounded_render, which ends it when it takes too long, or is ended itself.
"""

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gptjax.inference.conversation import written


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server ends this by itself
    memory, seconds = map(int, sys.argv[1:])
    limit_memory(memory)
    print(flush=True)  # ready
    for line in sys.stdin:
        limit_time(seconds)
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(asked: dict[str, Any]) -> dict[str, str]:
    model: Any = SimpleNamespace(
        generation_config=SimpleNamespace(chat_template=asked["template"], names=asked["names"]),
        tokenizer=SimpleNamespace(added_names=asked["added_names"], special_names=asked["special_names"]),
    )
    try:
        return {"text": written(model, asked["messages"], tools=asked["tools"], continues=asked["continues"])}
    except ValueError as error:
        return {"refused": str(error)}


def limit_memory(more: int) -> None:
    """From now on at most so many bytes more than now; where the system has no such limit, none."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(more: int) -> None:
    """The system ends this process after so many seconds of computing, also when nobody else is left to do it."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + more, hard))


if __name__ == "__main__":
    main()
