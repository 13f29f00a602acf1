"""tests.campaigns.paths: it can tell what is wrong, and gives each case the place that it asks for."""

import os
import sys

import pytest

from tests.campaigns import paths
from tests.campaigns.paths import CASES, STAGES, Campaign, Case, inside, listing, spoken


def test_a_terminal_has_its_columns_and_a_pipe_is_none(tmp_path):
    ask = [sys.executable, "-c", "import os, sys; print(sys.stdout.isatty() and os.get_terminal_size().columns)"]
    assert [spoken(ask, os.environ, tmp_path, columns).strip() for columns in (40, None)] == ["40", "False"]


def test_each_program_is_noted_with_how_it_ended(tmp_path, capsys):
    """A mistake and a traceback end themselves and not those after them."""
    codes = tmp_path / "codes"
    inside('{"a": ["report", "none"], "b": ["checkpoint", "list", "none"], "c": ["--help"], "d": [null]}', codes)
    assert codes.read_text() == "a=2\nb=2\nc=0\nd=70\n"
    assert "== d ==\n" in capsys.readouterr().out


@pytest.mark.parametrize("spoilt", ["nothing", "a code", "a traceback", "the text", "beside", "weights"])
def test_what_is_wrong_is_told(tmp_path, monkeypatch, spoilt):
    """One thing at a time; and nothing where nothing is."""

    def ran(campaign, case, words, folder):
        (folder / "exported").mkdir()
        (folder / "exported" / "model.safetensors").write_text(case.name if spoilt == "weights" else "same")
        if spoilt == "the text":
            (folder / "text" / "xz.json").touch()
        if spoilt == "beside":
            (folder.parent / "~").mkdir()
        said = "Traceback (most recent call last)" if spoilt == "a traceback" else ""
        return {stage: int(spoilt == "a code" and stage == "audit") for stage in STAGES}, said

    monkeypatch.setattr(Campaign, "_ran", ran)
    campaign = Campaign(tmp_path)
    told = [list(campaign.wrong(Case(name=name))) for name in ("one", "two")]
    if spoilt == "nothing":
        assert told == [[], []]
    else:
        assert [len(found) for found in told] == ([0, 1] if spoilt == "weights" else [1, 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared"]


def test_cases_have_names_of_their_own_and_tell_places_apart():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.folder, case.link, case.mount, case.columns) for case in CASES}) > 15
    assert paths.USER > 1000


def test_a_listing_moves_with_what_a_file_holds(tmp_path):
    (tmp_path / "a").write_text("1")
    before = listing(tmp_path)
    (tmp_path / "a").write_text("2")
    assert listing(tmp_path) != before
