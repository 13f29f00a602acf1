"""The command lines of fine-tuning, as the pages have them, say what the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from gptjax.config import ModelConfig, save_model_config
from tests.tiny_run import SHAPES, bpe
from train.tuning import base
from train.tuning.finetune import parse

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("README.md", "README.zh.md", "docs/finetuning.md")
COMMAND = re.compile(r"^    \./launch\.sh finetune (.*)$", flags=re.MULTILINE)
LINES = [words for page in PAGES for words in COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: a base without weights, and the file of stages that a page shows."""
    run = tmp_path / "base"
    run.mkdir()
    config = ModelConfig(T=64, vocabulary=bpe().size, tied=False, **SHAPES["grouped-query"])
    save_model_config(config, run / "model.json")
    bpe().save(run / "tokenizer.json")
    page = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    (tmp_path / "stages.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "base_path", lambda _: run)
    base.open_base.cache_clear()
    yield tmp_path
    base.open_base.cache_clear()


def test_every_command_of_the_pages_is_taken(folder):
    assert len(LINES) > 20
    refused = {}
    for line in LINES:
        try:
            assert parse(shlex.split(line, comments=True))[1]
        except ValueError as error:
            refused[line] = str(error)
    assert not refused


def test_what_is_on_or_off_takes_no_word(folder):
    with pytest.raises(ValueError, match="true"):
        parse(["runs/laptop", "--examples.prefix", "true"])


def test_a_run_of_a_few_steps_has_a_shorter_warm_up_unless_that_was_said(folder):
    (recipe,) = parse(["runs/laptop", "--steps", "5"])[1]
    assert recipe.optimizer.warmup == 5
    with pytest.raises(ValueError, match=r"optimizer.warmup=9 is more than steps=5"):
        parse(["runs/laptop", "--steps", "5", "--optimizer.warmup", "9"])
