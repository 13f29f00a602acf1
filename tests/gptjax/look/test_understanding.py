"""docs/understanding.md does what it says: its Python and its commands run, in order, on a run."""

import re
import shlex
import sys
from json import dumps
from pathlib import Path

import pytest

from gptjax.cli import main
from tests.tiny_run import random_model, write_run

PATH = Path(__file__).resolve().parents[3] / "docs" / "understanding.md"
PAGE = PATH.read_text(encoding="utf-8")


def code(page):
    """The blocks of a page, without their comments."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return [(kind, re.sub(r"  # .*", "", block)) for kind, block in blocks]


def test_the_chinese_page_has_the_same_code_and_parts():
    """So that it does what it says as well: its code is that of the English page, but for comments."""
    chinese = PATH.with_suffix(".zh.md").read_text(encoding="utf-8")
    assert code(chinese) == code(PAGE)
    assert len(code(PAGE)) == 12
    headings = [re.findall(r"^## (\d|)", page, flags=re.MULTILINE) for page in (chinese, PAGE)]
    assert headings[0] == headings[1]


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
