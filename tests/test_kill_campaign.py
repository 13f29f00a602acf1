"""tests.kill_campaign, in short: killed and resumed runs are the run left alone, and a fault would have been seen."""

import shutil

import pytest
from rich.console import Console

from tests.kill_campaign import RANDOM, Campaign, lost, names, table

RECIPE = (
    "laptop", "--model.D", "32", "--model.L", "1", "--model.N", "2", "--model.K", "2", "--model.F", "48",
    "--model.T", "32", "--steps", "24", "--checkpoint.every", "3", "--validation.every", "10",
)  # fmt: skip
KILLS = ("mid data", "before renaming", "mid clean-up", RANDOM)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    found = Campaign(tmp_path_factory.mktemp("campaign"), RECIPE, 0, Console())
    found.kill(KILLS)
    return found


def test_runs_that_are_killed_end_as_the_run_left_alone(campaign):
    """Nothing announced as saved is lost; state, ledger, held-out losses and files are the same at the end."""
    assert tuple(kill.point for kill in campaign.kills) == KILLS
    assert [kill.lost + kill.differing for kill in campaign.kills] == [[]] * len(KILLS)
    assert table(campaign).row_count == 14
