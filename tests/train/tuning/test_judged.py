"""What follows a run on labelled texts."""

import pytest

from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec
from data.examples.labelling import prepare_labelled
from gptjax.files.plain_json import dumps
from gptjax.text.tokenizer import train_characters
from train.tuning.judged import held_out_texts


@pytest.mark.parametrize("space", ["\u2028", "\u2029", "\x85", " "])
def test_held_out_texts_are_read_back_whatever_stands_in_them(tmp_path, space):
    records = [{"text": f"so{space}{n}", "label": "ab"[n % 2]} for n in range(10)]
    (tmp_path / "some.jsonl").write_text("".join(f"{dumps(record)}\n" for record in records))
    spec = ExamplesSpec(sources=(str(tmp_path / "some.jsonl"),), head=HeadSpec())
    tokenizer = train_characters(["so 0123456789"], 300)
    prepared = prepare_labelled(spec, tokenizer, 24, tmp_path / "prepared", running=None, replay=0.0)
    found = held_out_texts(prepared)
    assert len(found) == 2
    assert {*found} < {(record["text"], None) for record in records}
