"""From raw text to a conversation in the terminal: pretraining, fine-tuning and the chat, each a program of its own.

Repeated, it goes on where it was: what is finished says so, and ends at once.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from train.recipe_words import parse
from train.supervision.exits import DONE
from train.tuning.finetune import run_of


def chain(words: Sequence[str]) -> int:
    """Runs the programs in turn; returns the exit code of the first that fails, else that of the chat."""
    base = parse(words, "./launch.sh chain", about=__doc__).run
    for number, verb in enumerate((["pretrain", *words], ["finetune", str(base)]), start=1):
        print(f"\n{number} of 3: {' '.join(verb)}", flush=True)
        if (code := _run([sys.executable, "-P", "-m", "train", *verb])) != DONE:
            return code
    talks = str(run_of(base))
    print(f"\n3 of 3: talk with {talks}", flush=True)
    if not sys.stdin.isatty():
        print(f"there is no terminal here; ./launch.sh generate {talks}")
        return DONE
    return _run([str(Path(sys.executable).parent / "gptjax"), "generate", talks])


def _run(command: list[str]) -> int:
    """The exit code of a program, which gets the signals that ask this one to stop."""
    child = subprocess.Popen(command, env=os.environ)

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    handlers = {signal.SIGTERM: pass_on, signal.SIGINT: signal.SIG_IGN}  # a terminal sends Ctrl-C to both by itself
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
