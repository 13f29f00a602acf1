"""The kill campaign, in short: killed and resumed runs are the run left alone, and a fault would have been seen."""

import shutil

import pytest
from rich.console import Console

from tests.campaigns.kill_campaign import RANDOM, Campaign, lost

RECIPE = (
    "laptop", "--model.D", "32", "--model.L", "1", "--model.N", "2", "--model.K", "2", "--model.F", "48",
    "--model.T", "32", "--steps", "24", "--checkpoint.every", "3", "--validation.every", "10",
)  # fmt: skip
KILLS = ("mid data", "before renaming", "mid clean-up", RANDOM)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The run left alone; the kills, minutes of processes, are made by the one test that is about them."""
    return Campaign(tmp_path_factory.mktemp("campaign"), RECIPE, 0, Console())


@pytest.mark.slow
@pytest.mark.fault(1, 2, 30, 34)
def test_runs_that_are_killed_end_as_the_run_left_alone(campaign):
    """Nothing announced as saved is lost; state, ledger, metrics and files are the same at the end."""
    campaign.kill(KILLS)
    assert tuple(kill.point for kill in campaign.kills) == KILLS
    assert [kill.lost + kill.differing for kill in campaign.kills] == [[]] * len(KILLS)


def test_a_lost_step_is_seen(campaign):
    """One that was announced and is gone; not so one that was deleted in time, or is there."""
    assert list(lost(campaign.straight, ["committed 3", "clean 3", "committed 24"])) == []
    assert list(lost(campaign.straight, ["committed 3", "committed 24"])) == [
        "step 3: step 3: manifest.json: is missing; the step was copied in part"
    ]


@pytest.mark.parametrize("name", ["ledger.jsonl", "metrics.jsonl", "checkpoints/21/manifest.json.0", "failures.json"])
def test_another_end_is_seen(campaign, tmp_path, name):
    """The first line of a file is gone, or a file is there that should not be; a mere copy is the same."""
    copy = shutil.copytree(campaign.straight, tmp_path / "copy")
    assert list(campaign.otherwise(copy)) == []
    file = copy / name
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]) if file.exists() else "")
    assert name.split("/")[-1].split(".")[0] in " ".join(campaign.otherwise(copy))
