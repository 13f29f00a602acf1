"""A TensorFlow data set as lines that `gptjax evaluate` reads."""

import json

import numpy as np
import pytest

from data import dump
from data.preparation import sources

QUESTIONS = [
    {"question": "who? 曹操", "answers": {"text": ["a", "b"], "at": [0, 5]}, "mood": 1, "score": 0.5, "right": True},
    {"question": "why?", "answers": {"text": ["c"], "at": [7]}, "mood": -1, "score": 2.0, "right": False},
    {"question": "how?", "answers": {"text": [], "at": []}, "mood": 0, "score": 1.0, "right": False},
]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Three questions in the split `test`, under the name tfds:quiz."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds = sources.load_tfds()
    features = tfds.features
    tfds.dataset_builders.store_as_tfds_dataset(
        name="quiz", version="1.0.0", data_dir=str(tmp_path),
        features=features.FeaturesDict({
            "question": features.Text(), "mood": features.ClassLabel(names=["good", "bad"]), "score": np.float32,
            "right": np.bool_, "answers": features.Sequence({"text": features.Text(), "at": np.int32}),
        }),
        split_datasets={"test": list(enumerate(QUESTIONS))}, disable_shuffling=True,
    )  # fmt: skip


def run(tmp_path, *words):
    assert dump.main([*words, "--out", str(tmp_path / "out.jsonl")]) == 0
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_field_comes_as_json_has_it(dataset, tmp_path):
    """Classes by name, none as null; lists within examples; in the order in which they were written."""
    moods = {1: "bad", 0: "good", -1: None}
    wanted = [one | {"mood": moods[one["mood"]]} for one in QUESTIONS]
    assert run(tmp_path, "tfds:quiz", "--split", "test") == wanted
    assert run(tmp_path, "tfds:quiz", "--split", "test[1:]", "--most", "1") == wanted[1:2]


def test_fields_are_chosen_renamed_and_reached_into(dataset, tmp_path, capsys):
    found = run(tmp_path, "tfds:quiz", "--split", "test", "--fields", "question", "answers=answers.text", "label=mood")
    assert found[0] == {"question": "who? 曹操", "answers": ["a", "b"], "label": "bad"}
    assert capsys.readouterr().err.endswith(f": {len(found)} lines\n")
    assert dump.main(["tfds:quiz", "--split", "test", "--fields", "answers=answers.txt"]) == 2
    assert "no field 'answers.txt'; did you mean 'text'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tfds:quiz", "--split", "tests"], "split 'tests'"),
        (["files:a.txt"], "is files already"),
        (["chitchatt"], "did you mean 'chitchat'"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(dataset, tmp_path, capsys, words, said):
    assert dump.main([*words, "--out", str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_picture_is_refused_by_name():
    features = sources.load_tfds().features
    with pytest.raises(ValueError, match=r"x\.face: Image"):
        dump.plain(features.FeaturesDict({"face": features.Image(shape=(2, 2, 3))}), {"face": np.zeros((2, 2, 3))}, "x")
