"""Official OpenAI clients against real servers: 40 calls, each right in both.

    python -m tests.campaigns.openai_clients TALKS BASE --python CLIENT/bin/python --node node --packages FOLDER

TALKS is a run that learned to talk, as `./launch.sh finetune` teaches it, and BASE one that continues text, which is
served with keys. `--python` is of an environment with `openai` 3.57, `--packages` a folder where
`npm install openai@7.59 zod` was run, for Node 22 or later; leave `--node` or `--python` out to try one client only.
The clients only call (openai_client.py, openai_client.mjs); what is right is worked out in this process, by
gptjax.generate and its scorer on the same run (openai_calls.py). The exit status is 1 where a call is not right.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gptjax
from tests.campaigns.openai_calls import CALLS, Served
from tests.campaigns.server_process import serving

HERE = Path(__file__).parent
KEY = "sk-0123456789abcdef"


class Client:
    """An official client, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self.version = self._read()

    def __call__(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"the client ended with status {self._process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def client(*command: str) -> Iterator[Client]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Client(process)
        finally:
            process.kill()


def tried(base: Served, talks: Served, numbers: Sequence[int]) -> dict[int, bool]:
    """Which of the calls are right; of the others, where they are not, on stderr."""
    found = {}
    for number in numbers:
        try:
            CALLS[number - 1][1](base, talks)
            found[number] = True
        except Exception as error:  # also an assertion
            print(f"{number}. {CALLS[number - 1][0]}:", *traceback.format_exception(error)[-3:], file=sys.stderr)
            found[number] = False
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talks", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--python")
    parser.add_argument("--node")
    parser.add_argument("--packages")
    parser.add_argument("--only", type=int, nargs="+", default=range(1, len(CALLS) + 1))
    asked = parser.parse_args()
    commands = []
    if asked.python is not None:
        commands.append((asked.python, str(HERE / "openai_client.py")))
    if asked.node is not None:
        commands.append((asked.node, str(HERE / "openai_client.mjs"), asked.packages))
    with contextlib.ExitStack() as stack:
        keys = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".txt"))
        print(KEY, file=keys, flush=True)
        talks = (
            stack.enter_context(serving(asked.talks, "--dtype", "float32", name=None)).address,
            asked.talks.name,
            "none",
            gptjax.load(asked.talks),
        )
        base = stack.enter_context(serving(asked.base, "--dtype", "float32", "--api-key-file", keys.name, name=None))
        base = base.address, asked.base.name, KEY, gptjax.load(asked.base)
        clients = [stack.enter_context(client(*command)) for command in commands]
        found = [tried(Served(one, *base), Served(one, *talks), asked.only) for one in clients]
    print("| | call | what is right |", " | ".join(one.version for one in clients), "|")
    print("|---|---|---|" + "---|" * len(clients))
    for number in asked.only:
        marks = " | ".join("right" if each[number] else "WRONG" for each in found)
        call, check = CALLS[number - 1]
        print(f"| {number} | {call} | {check.__doc__} | {marks} |")
    print("right:", ", ".join(f"{sum(each.values())} of {len(each)}" for each in found))
    return int(not all(all(each.values()) for each in found))


if __name__ == "__main__":
    sys.exit(main())
