"""train.measuring.insight: what is recorded of the inside of a model is what the hook sees and NumPy makes of it."""

import contextlib
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from gptjax.look.head_roles import head_roles
from gptjax.look.hook import read
from gptjax.sharding import make_mesh
from tests.gptjax.probing.test_similarity import cka
from tests.tiny_run import bpe, random_model
from tests.tiny_text import stories, write_prepared
from train.measuring import measure
from train.measuring.insight import COMPARED, ROWS, insight
from train.measuring.measure import Measuring
from train.recipe import StopSpec, ValidationSpec
from train.record.metrics import as_json, parsed
from train.record.progress import Progress
from train.stopping import End


def of_run(prepared, run, devices=1) -> Any:
    model = random_model()
    mesh = make_mesh(data=devices, devices=jax.devices()[:devices])
    parts: Any = SimpleNamespace(config=model.config, mesh=mesh, recipe=SimpleNamespace(run=run))
    text: Any = SimpleNamespace(prepared=prepared, tokenizer=model.tokenizer)
    return insight(parts, text)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    made = tmp_path_factory.mktemp("insight")
    return write_prepared(made, {"one": stories(60, 20), "two": stories(200, 20, 1)}, tokenizer=bpe())


def always():
    return True


@pytest.fixture(scope="module")
def looks(prepared, tmp_path_factory):
    """(an insight, its looks at a model and at the same one nudged, the nudged parameters)."""
    model, made = random_model(), of_run(prepared, tmp_path_factory.mktemp("run"))
    nudged = jax.tree.map(lambda leaf: leaf * 1.2 if leaf.ndim > 2 else leaf, model.params)
    return made, made.look(5, model.params, always), made.look(7, nudged, always), nudged


def seen(made, params):
    """Of the tokens that are compared: attention, a row [L,N,T,S] each; states of all rows [L,I,D]."""
    found = [read(random_model()._model, params, ids, [0, 1], range(4)) for ids in made._rows]
    states = np.concatenate([one.state_CTD[:, COMPARED] for one in found], axis=1)
    return [one.prob_CnTS[:, :, COMPARED] for one in found], states


def test_entropy_is_that_of_the_attention_and_roles_are_those_of_a_look(looks):
    made, first, _, _ = looks
    shares, _ = seen(made, random_model().params)
    nats = [-(share * np.log(np.where(share > 0, share, 1))).sum(-1) for share in map(np.float64, shares)]
    np.testing.assert_allclose(first.entropy, np.concatenate(nats, axis=-1).mean(axis=-1), atol=1e-4)
    prob_CnTS = read(random_model()._model, random_model().params, made._probe, [0, 1], range(4)).prob_CnTS
    roles = head_roles(prob_CnTS, made._probe, [0, 1], range(4), both=False)
    assert set(first.roles) == {"previous token", "first token", "same word", "induction"}
    for name, share_LN in first.roles.items():
        np.testing.assert_allclose(np.ravel(share_LN), [role.scores[name] for role in roles], atol=1e-4)


def test_layers_are_compared_with_each_other_and_with_what_they_were(looks):
    """By CKA in float64; a look that is taken again is the same, and knows of none that came after it."""
    made, first, second, nudged = looks
    (_, before_LID), (_, now_LID) = seen(made, random_model().params), seen(made, nudged)
    np.testing.assert_allclose(
        first.layers, [[cka(*map(np.float64, (one, other))) for other in before_LID] for one in before_LID], atol=1e-3
    )
    assert first.earlier == {}
    assert list(second.earlier) == ["5"]
    alike = [cka(*map(np.float64, pair)) for pair in zip(before_LID, now_LID, strict=True)]
    np.testing.assert_allclose(second.earlier["5"], alike, atol=1e-3)
    assert max(alike) < 0.999
    assert made.look(5, random_model().params, always) == first
    assert made.look(5, random_model().params, lambda: False) is None  # a run that is to stop


def test_every_source_is_read_from_the_beginnings_of_its_documents(looks):
    """As many of each, as far as it has them; each begins as documents do, and fits."""
    made, *_ = looks
    assert len(made._rows) == 6 + ROWS // 2  # all of the source that has fewer
    assert all(ids[0] == bpe().bos and len(ids) <= random_model().config.T for ids in made._rows)


def test_a_run_over_several_devices_is_not_looked_into(prepared, tmp_path):
    assert of_run(prepared, tmp_path, devices=2) is None


def test_a_record_is_what_it_was_once_read_again(looks):
    _, _, second, _ = looks
    assert parsed(as_json(second)) == second


def measuring(monkeypatch, insight, said):
    """What a run measures every 10 steps, with this insight; what it is told goes to `said`."""
    monkeypatch.setattr(measure, "HeldOut", lambda *_: None)
    monkeypatch.setattr(measure, "Monitor", lambda *_: None)
    monkeypatch.setattr(measure, "insight", lambda *_: insight)
    monkeypatch.setattr(Measuring, "validate", lambda *_: None)
    optimizer = SimpleNamespace(schedule="cosine")
    recipe = SimpleNamespace(stop=StopSpec(), validation=ValidationSpec(every=10), optimizer=optimizer)
    parts: Any = SimpleNamespace(recipe=recipe)
    text: Any = SimpleNamespace(rows=None)
    recorder: Any = SimpleNamespace(measured=said.append, say=said.append)
    watchdog = SimpleNamespace(phase=lambda _: contextlib.nullcontext(), progress=None)
    stop: Any = SimpleNamespace(agreed=False)
    guards: Any = SimpleNamespace(watchdog=watchdog)
    return Measuring(parts, text, Progress(), recorder, stop, guards)


def test_a_run_is_looked_into_more_and_more_rarely_and_at_its_end(monkeypatch):
    """At 1, 2, 4, ... times validation.every and at the last step, each once, though the run is started again there."""
    looked: list[Any] = []
    made = measuring(monkeypatch, SimpleNamespace(look=lambda step, *_: step), looked)
    state: Any = SimpleNamespace(params=None)
    for step in (10, 20, 20, 30, 40, 50, 60, 70):
        made.measure(step, state, End(70, "the recipe's steps"))
    assert looked == [10, 20, 40, 70]


def test_a_look_that_fails_costs_the_run_nothing_but_its_looks(monkeypatch):
    def fails(*_):
        raise MemoryError("no\n room")

    said: list[Any] = []
    made = measuring(monkeypatch, SimpleNamespace(look=fails), said)
    for step in (10, 20):
        made.measure(step, SimpleNamespace(params=None), End(70, "the recipe's steps"))  # pyright: ignore[reportArgumentType]
    assert said == ["the look inside at step 10, and those to come, are left out (MemoryError: no room)"]
