"""docs/understanding.md does what it says: its Python and its commands run, in order, on a run."""

import re
import shlex
import sys
from json import dumps
from pathlib import Path

import pytest

from gptjax.cli import main
from tests.tiny_run import random_model, write_run

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "understanding.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the page calls runs/laptop."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "laptop", random_model())
    return tmp_path


def test_the_python_of_the_page_runs(folder):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    names = {}
    for block in blocks:
        exec(block, names)
    assert (folder / "seen.html").is_file()
    assert names["causal"].view == "causal"


def test_the_commands_of_the_page_run(folder, monkeypatch, capsys):
    """And what it says of them is so: where the first writes."""
    commands = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(commands) == 4
    texts = (dumps({"text": f"the fox {n}", "kind": n % 2}) + "\n" for n in range(12))
    (folder / "texts.jsonl").write_text("".join(texts))
    for command in "".join(commands).splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        main()
    made = {"look.html", "why.html", "vectors.npy", "vectors.html"}
    assert {path.name for path in folder.iterdir()} == {"runs", "texts.jsonl"} | made
    assert "wrote why.html" in capsys.readouterr().out
