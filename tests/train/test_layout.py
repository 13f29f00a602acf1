"""A run that comes back with other devices goes on by itself: the same rows a step, cut as its memory has room."""

import dataclasses
import json
import re
from io import StringIO

import jax
import pytest
from rich.console import Console

from gptjax.config import ModelConfig
from tests.campaigns.resharding import BOUND, compare
from tests.tiny_recipe import recipe, steps_alone, write_text
from train.layout import Layout, asked_for, layout_of
from train.recipe import BatchSpec, CheckpointSpec, ComputeSpec, MeshSpec, StopSpec, ValidationSpec, to_json
from train.record.starts import Beginning


def asking(tmp_path, rows=16, parts=1, remat="none", **mesh):
    return recipe(
        tmp_path, "run", batch=BatchSpec(rows=rows, micro_batches=parts), mesh=MeshSpec(**mesh),
        compute=ComputeSpec(remat=remat),
    )  # fmt: skip


def start_of(made, layout):
    return Beginning(0, 0.0, 0, json.loads(to_json(made)), layout._asdict())


def later(made, *devices):
    """Layout and sentence at the last of several starts on so many devices each."""
    config = ModelConfig.of(made.model, 400)
    layout, told = asked_for(made, devices[0]), ""
    for count in devices[1:]:
        layout, told = layout_of(made, config, count, start_of(made, layout))
    return layout, told


@pytest.mark.parametrize(
    ("devices", "parts", "rows"),
    [
        ((8, 4), 2, 8), ((8, 1), 8, 2), ((8, 4, 2, 8), 1, 16), ((4, 8, 4), 1, 16), ((2, 16), 1, 16),
        ((8, 3), 3, 6), ((8, 7), 3, 7), ((8, 32), 1, 32),
    ],
)  # fmt: skip
def test_no_device_gets_more_rows_at_once_than_one_of_the_run_has_held(tmp_path, devices, parts, rows):
    """Of 16 rows in one micro-batch; where they do not divide, the last ones of a micro-batch are empty."""
    layout, _ = later(asking(tmp_path), *devices)
    assert (layout.micro_batches, layout.micro_rows) == (parts, rows)
    assert layout.devices == devices[-1]


def test_more_devices_need_fewer_micro_batches_than_were_asked_for_but_no_others_where_those_divide(tmp_path):
    grown, _ = later(asking(tmp_path, parts=4), 4, 8)
    assert (grown.micro_batches, grown.micro_rows) == (2, 8)
    as_asked, _ = later(asking(tmp_path, rows=64, parts=4), 4, 8)
    assert (as_asked.micro_batches, as_asked.micro_rows) == (4, 16)


@pytest.mark.parametrize(
    ("asked", "devices", "mesh"),
    [
        ({"fsdp": 8}, (8, 4), {"fsdp": 4}), ({"fsdp": 8}, (8, 16), {"data": 2, "fsdp": 8}),
        ({"fsdp": 4, "tensor": 2}, (8, 4), {"fsdp": 2, "tensor": 2}),
        ({"data": 8}, (8, 4), {"data": 4}), ({"fsdp": 2, "context": 4}, (8, 2), {"context": 2}),
        ({"fsdp": 8}, (8, 7), {"data": 7}),  # no width of 32 has sevenths
        ({"fsdp": 4}, (4, 24), {"data": 6, "fsdp": 4}), ({"fsdp": 8}, (8, 12), {"data": 3, "fsdp": 4}),
    ],
)  # fmt: skip
def test_a_mesh_that_the_devices_do_not_make_becomes_the_one_most_like_it(tmp_path, asked, devices, mesh):
    layout, told = later(asking(tmp_path, **asked), *devices)
    assert {axis: size for axis, size in layout.mesh.items() if size > 1} == mesh
    assert told.startswith(f"{devices[0]} devices before, {devices[1]} now: a mesh ")


def test_a_recipe_whose_batch_or_mesh_has_changed_counts_as_it_stands(tmp_path):
    """What cannot be made of it is then a mistake. Other settings of computing, which may need more room than there
    was, get no more rows at once."""
    made = asking(tmp_path)
    config, before = ModelConfig.of(made.model, 400), start_of(made, asked_for(made, 8))
    for changed in (asking(tmp_path, rows=32), asking(tmp_path, fsdp=8)):
        assert layout_of(changed, config, 3, before) == (asked_for(changed, 3), "")
    assert layout_of(made, config, 3, None) == layout_of(made, config, 3, before._replace(layout=None))
    assert layout_of(made, config, 4, before)[0].micro_batches == 2
    assert layout_of(asking(tmp_path, remat="full"), config, 4, before)[0].micro_batches == 2


def test_the_sentence_says_what_is_other_and_what_is_not(tmp_path):
    _, told = later(asking(tmp_path), 8, 3)
    assert told == (
        "8 devices before, 3 now: a mesh data=3 where it was data=8; a step has its 16 rows as before, in 3 "
        "micro-batches of 6, whose last 2 are empty: 2 rows at once for a device, where 2 went into its memory; "
        "dropout draws other masks than it would have"
    )
    assert later(asking(tmp_path), 8, 4, 4)[1] == ""


def train_on(text, name, monkeypatch, *legs):
    """Six steps by one command, which stops on the way and goes on, on so many devices at a time."""
    every, said = jax.devices(), StringIO()
    for number, devices in enumerate(legs, start=1):
        monkeypatch.setattr(jax, "devices", lambda *_, count=devices: every[:count])
        monkeypatch.setattr(jax, "device_count", lambda *_, count=devices: count)
        made = recipe(
            text, name, batch=BatchSpec(rows=8), mesh=MeshSpec(fsdp=4), stop=StopSpec(step=6 * number // len(legs)),
            checkpoint=CheckpointSpec(every=100), validation=ValidationSpec(every=100, rows=4, final_rows=4),
        )  # fmt: skip
        made = dataclasses.replace(made, model=dataclasses.replace(made.model, dropout=0.0, L=1))
        steps_alone(made, Console(file=said, width=400))
    return made.run, said.getvalue()


@pytest.mark.slow
def test_the_same_command_on_fewer_and_on_more_devices_takes_the_steps_of_one_that_kept_them(tmp_path, monkeypatch):
    """8 devices, then 3, whose rows do not divide, then 4: equal rows, and losses within rounding."""
    text = write_text(tmp_path)
    straight, _ = train_on(text, "straight", monkeypatch, 8)
    other, said = train_on(text, "other", monkeypatch, 8, 3, 4)
    found = compare(straight, other)
    assert found.same_rows == found.steps == 6
    assert found.loss < BOUND["float32"]
    assert re.findall(r"(\d) devices before, (\d) now", said) == [("8", "3"), ("3", "4")]
    starts = [json.loads(line)["layout"] for line in (other / "starts.jsonl").read_text().splitlines()]
    assert [Layout(**layout)[1:3] for layout in starts] == [(1, 8), (3, 3), (2, 4)]
    assert json.loads((other / "recipe.json").read_text())["mesh"]["fsdp"] == 4  # what was asked for stays
