"""tests.campaigns.resharding, in short and in this process: a run that changes its mesh is the same run."""

import json

import pytest

from tests.campaigns.resharding import BOUND, RECIPE, STRAIGHT, Leg, compare
from tests.tiny_recipe import steps_alone
from tests.tiny_text import write_sources
from train.__main__ import parse

STEPS = 8
SMALL = (
    "--model.T", "32", "--model.D", "32", "--model.L", "1", "--model.F", "48", "--compute.dtype", "float32",
)  # fmt: skip


def make(folder, name, legs):
    """A run that stops between its legs."""
    arguments = [*RECIPE[1:], *SMALL, *write_sources(folder), "--steps", str(STEPS), "--run", str(folder / name)]
    for number, leg in enumerate(legs, start=1):
        stop = ["--stop.step", str(STEPS * number // len(legs))]
        steps_alone(parse([*arguments, *leg.arguments(), *stop]))
    return folder / name


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return make(tmp_path_factory.mktemp("straight"), "straight", [STRAIGHT])


@pytest.mark.slow
@pytest.mark.fault(13)
def test_a_run_that_changes_its_mesh_is_the_same_run(straight, tmp_path):
    """First 2 x 4 devices, data x fsdp, then data x tensor: at each step the same rows, and a loss within the bound."""
    found = compare(straight, make(tmp_path, "changing", [Leg(2, fsdp=4), Leg(2, tensor=4)]))
    assert found.same_rows == found.steps == STEPS
    assert found.loss < BOUND["float32"]


@pytest.mark.parametrize("field", ["hash", "loss"])
def test_another_row_or_loss_is_seen(straight, tmp_path, field):
    """In one step of a copy, one digit of the hash, or a thousandth of the loss."""
    right = compare(straight, straight)
    lines = (straight / "ledger.jsonl").read_text().splitlines()
    entry = json.loads(lines[3])
    entry[field] = entry["hash"][:-1] + "x" if field == "hash" else entry["loss"] * 1.001
    lines[3] = json.dumps(entry)
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    found = compare(straight, tmp_path)
    assert (found.same_rows == right.same_rows - 1) == (field == "hash")
    assert (found.loss > BOUND["float32"]) == (field == "loss")
    assert (right.same_rows, right.loss) == (STEPS, 0)
