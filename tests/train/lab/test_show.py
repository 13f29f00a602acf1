"""The picture of a row says what is input, what is target, where the loss is and where documents meet."""

import numpy as np
import pytest
from rich.console import Console

from data.rows.rows import Rows
from data.tasks.causal_lm import CausalLM
from data.tasks.classify import Classify
from gptjax.batch import ClassHead
from tests.tiny_text import sentences, write_prepared
from train.lab.show import row_text, show, target_text, visible
from train.objectives import Objectives


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    prepared = write_prepared(tmp_path_factory.mktemp("show"), {"one": sentences(80)})
    return Rows(prepared, 200, 0, None, Objectives().tasks)


def test_a_row_is_drawn_token_by_token_with_a_mark_where_each_document_begins(rows):
    batch, tokenizer = rows.batch(np.arange(1)), rows.corpus.tokenizer
    drawn = row_text(batch, 0, tokenizer)
    assert drawn.plain.count("▌") == batch.segment_BT[0].max() > 1
    text = "".join(visible(tokenizer.token(id)) for id in batch.tokens_BT[0].tolist())
    assert drawn.plain.removeprefix("input   ").replace("▌", "") == text
    underlined = sum(span.end - span.start for span in drawn.spans if "underline" in str(span.style))
    assert 0 < underlined < len(text)


def test_targets_are_shown_where_the_loss_is_and_nowhere_else(rows):
    batch, tokenizer = rows.batch(np.arange(1)), rows.corpus.tokenizer
    shown = target_text(batch, 0, tokenizer, None).plain.removeprefix("target  ")
    targets = [
        visible(tokenizer.token(id)) if weight else "·"
        for id, weight in zip(batch.targets_BT[0].tolist(), batch.weights_BT[0], strict=True)
    ]
    assert shown == "".join(targets)
    assert "·" in targets


def test_classes_of_single_tokens_are_shown_by_their_names(rows):
    batch = rows.batch(np.arange(1))
    second = batch._replace(targets_BT=np.ones_like(batch.targets_BT))
    shown = target_text(second, 0, rows.corpus.tokenizer, ClassHead(name="far", classes=("one", "two"))).plain
    assert "two " in shown
    assert "one " not in shown


def test_the_program_names_row_and_source(rows):
    console = Console(record=True, width=100)
    show(rows, first_row=10**6, count=2, task=None, console=console)
    printed = console.export_text()
    assert "row 1000000 · one" in printed
    assert "row 1000001 · one" in printed


def test_rows_of_one_task_are_found_and_their_classes_drawn(tmp_path):
    """Only rows of that task, under its name; what a segment is stands below it. An unknown task is named."""
    prepared = write_prepared(tmp_path / "prepared", {"one": sentences(80), "two": sentences(80, 1)})
    tasks = Objectives(causal_lm=CausalLM(rows=0.9), classify=Classify(rows=0.1, shortest=4)).tasks
    rows, console = Rows(prepared, 200, 0, None, tasks), Console(record=True, width=400)
    show(rows, first_row=0, count=2, task="classify", console=console)
    printed = console.export_text()
    assert printed.count("classify") == 2
    assert "causal_lm" not in printed
    assert "source: one" in printed or "source: two" in printed
    with pytest.raises(ValueError, match=r"task='clasify'; did you mean 'classify'\?"):
        show(rows, first_row=0, count=2, task="clasify", console=console)
