"""The table of losses is open: the loss that docs/objectives.md adds is learnt, scored and shown as the others are."""

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from data.preparation.token_flags import WORD_START
from data.rows.rows import Rows
from data.tasks.causal_lm import CausalLM
from data.tasks.task import Targets, Task, packed
from gptjax.inference.generation_config import GenerationConfig
from gptjax.sharding import make_mesh
from tests.tiny_recipe import recipe
from tests.tiny_text import sentences, write_prepared
from train.assemble import Text, assemble
from train.losses.table import LOSSES, loss_named, loss_of_record
from train.measuring.validate import HeldOut
from train.objectives import Objectives, loss_spec
from train.recipe import BatchSpec, MeshSpec
from train.record.metrics import TaskRecord, as_json
from train.report.report_tasks import scores, training_curves

PAGE = Path(__file__).parents[3] / "docs" / "objectives.md"
T, B = 32, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(Task):
    """How many words a piece of text has."""

    loss: ClassVar[str] = "absolute"

    def heads(self, corpus) -> dict[str, tuple[str, ...]]:
        return {"words": ("count",)}

    def targets_a_row(self, corpus, T: int) -> int:
        return T

    def build(self, text):
        piece_P = np.arange(len(text.row_P))
        words_P = np.add.reduceat(text.mark_I & WORD_START, text.first_P)
        targets = Targets(piece_P, np.zeros_like(piece_P), np.zeros_like(piece_P), value_L=words_P)
        seen_I = np.ones(len(text.token_I), bool)
        return packed(text, text.row_P, text.length_P, text.token_I, visible_I=seen_I, targets=targets, Q=text.T)


def absolute():
    """The loss of the page's last two blocks of Python: the file, and the table's line."""
    *_, file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space: dict = {"__name__": "example"}
    exec(compile(file, str(PAGE), "exec"), space)
    assert line.strip() == '"absolute": Absolute(),'
    return space["Absolute"]()


def test_a_loss_that_is_added_to_the_table_is_trained_scored_and_reported(tmp_path, monkeypatch):
    """Two steps, held-out text, the report: no other file knows of it. Its first loss is that of a head that says 0."""
    monkeypatch.setitem(LOSSES, "absolute", absolute())
    field = ("words", Words, dataclasses.field(default_factory=Words))
    table = dataclasses.make_dataclass("Table", [field], bases=(Objectives,), frozen=True, kw_only=True)
    objectives = table(causal_lm=CausalLM(rows=0.5), words=Words(rows=0.5))
    prepared = write_prepared(tmp_path / "prepared", {"p": sentences(80), "q": sentences(60, seed=1)})
    rows = Rows(prepared, T, 0, None, objectives.tasks)
    settings = recipe(tmp_path, "run", objectives=objectives, batch=BatchSpec(rows=B), mesh=MeshSpec(data=1))
    talks = GenerationConfig.of_runs(rows.corpus.tokenizer)
    text = Text(prepared, rows.corpus.tokenizer, rows, loss_spec(rows, B, "static"), talks)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        parts = assemble(settings, text.tokenizer.size, text.loss_spec, mesh)
        state, seen = parts.fresh(), []
        for batch in parts.loader.training(rows, 0, 2):
            values, weights = np.asarray(batch.value_BQ), np.asarray(batch.label_weight_BQ)
            state, metrics = parts.train_step(state, batch, parts.stop_flag(stop=False))
            seen.append((float(metrics["loss/words"]), np.average(np.abs(values), weights=weights)))
        stop_flag = lambda: parts.stop_flag(stop=False)  # noqa: E731
        found = HeldOut(parts, text).findings(state.params, B, 4 * B, stop_flag, lambda: None)
    assert seen[0][0] == pytest.approx(seen[0][1], rel=0.2)
    assert found is not None
    score = found.terms["words"]
    error = score.measured["error"]
    assert error == pytest.approx(score.loss)
    assert score.baseline == "always says the median"
    assert 0 < score.measured["baseline_error"] < error  # after two steps
    assert set(score.by_source) == {"p", "q"}
    record = as_json(TaskRecord(2, "final", False, "words", score))
    assert loss_of_record(record) is LOSSES["absolute"]
    page = scores([], [record])
    assert "mean absolute error" in page
    assert f"{error:.3f}" in page
    assert "the model does not beat a cheap baseline at words" in page
    assert ">absolute error<" in training_curves([], [record | {"kind": "validation_task"}])


def test_old_records_are_drawn_by_the_losses_that_wrote_them():
    """They do not name their loss; of classes there is a confusion matrix."""
    record = {"accuracy": 0.5, "baseline_accuracy": 0.2, "targets": 10, "confusion": None, "classes": None}
    assert loss_of_record(record) is LOSSES["tokens"]
    of_classes = record | {"confusion": [[3, 1], [2, 4]], "classes": ["a", "b"]}
    found = loss_of_record(of_classes)
    assert found is LOSSES["classes"]
    [picture] = found.pictures("x", of_classes)
    assert (picture.count_CC.tolist(), picture.classes) == ([[3, 1], [2, 4]], ["a", "b"])
    assert loss_of_record({"error": 1.0}) is None


def test_a_loss_that_is_not_in_the_table_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"Task.loss='clases'; did you mean 'classes'\?; train/losses/table.py lists"):
        loss_named("clases")
