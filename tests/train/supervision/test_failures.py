"""The count of bad ends: five at one step stop the sixth, and progress wipes them out."""

import re

import pytest

from train.supervision.failures import MOST, MOST_SILENT, SILENT, check, cleared, failed


def bad_ends(run, count, step=120, cause="ValueError: no such\n  text"):
    for _ in range(count):
        failed(run, step, cause)


@pytest.mark.fault(36)
def test_the_fifth_bad_end_at_a_step_refuses_the_next_start_and_names_cause_and_file(tmp_path):
    bad_ends(tmp_path, MOST - 1)
    check(tmp_path, 120)
    bad_ends(tmp_path, 1)
    said = "5 starts in a row ended at step 120, the last with: ValueError: no such text. Mend it, then delete "
    with pytest.raises(ValueError, match=re.escape(said + str(tmp_path / "failures.json"))):
        check(tmp_path, 120)


@pytest.mark.fault(36)
def test_ends_without_a_word_may_be_preemptions_and_count_half(tmp_path):
    bad_ends(tmp_path, MOST_SILENT - 1, cause=SILENT)
    check(tmp_path, 120)
    bad_ends(tmp_path, 1, cause=SILENT)
    with pytest.raises(ValueError, match="10 starts"):
        check(tmp_path, 120)


@pytest.mark.fault(36)
def test_a_newer_checkpoint_starts_the_count_anew(tmp_path):
    bad_ends(tmp_path, MOST)
    check(tmp_path, 130)
    bad_ends(tmp_path, 1, step=130)
    check(tmp_path, 130)
    with pytest.raises(ValueError, match="5 starts"):
        (bad_ends(tmp_path, MOST - 1, step=130), check(tmp_path, 130))


def test_progress_or_a_deleted_file_lets_the_run_start(tmp_path):
    bad_ends(tmp_path, MOST)
    cleared(tmp_path)
    check(tmp_path, 120)
    assert list(tmp_path.iterdir()) == []
    cleared(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"step": 120, "cause": "x", "count": null}', "\x00" * 40])
def test_a_damaged_count_is_none_and_is_written_anew(tmp_path, content):
    (tmp_path / "failures.json").write_text(content)
    check(tmp_path, 120)
    bad_ends(tmp_path, MOST)
    with pytest.raises(ValueError, match="5 starts"):
        check(tmp_path, 120)


def test_where_nothing_can_be_written_the_first_error_stays_the_only_one(tmp_path):
    (tmp_path / "failures.json").mkdir()
    for run in (tmp_path / "missing", tmp_path):
        bad_ends(run, MOST)
        check(run, 120)
        cleared(run)
