"""A process that all others wait for is named, by what it does alone; one that is alone does nothing."""

import jax
import pytest

from gptjax.sharding import make_mesh
from train.record.metrics import Hosts
from train.supervision import slow_hosts
from train.supervision.slow_hosts import FACTOR, STRETCH, Product, SlowHosts, Verdicts

USUAL = Hosts(10, [1.0] * 4, [1.5] * 4, [0.01, 0.02, 0.01, 0.03], [0.010, 0.012, 0.009, 0.011])


def others(**changed):
    """The usual times, but for process 2."""
    return USUAL._replace(**{name: [*getattr(USUAL, name)[:2], value, getattr(USUAL, name)[3]]
                             for name, value in changed.items()})  # fmt: skip


def said(verdicts, *looks):
    return [verdicts.note(look, lambda process: f"process {process}") for look in looks]


@pytest.mark.parametrize(
    ("slow", "how"),
    [
        ({"product_seconds": 0.033}, "its devices take 3.0 times as long for the same product as the others' median"),
        ({"batch_seconds": 0.4}, "waits 0.4 s of a step of 1 s for its batch, the others' median 0.02 s"),
    ],
)
def test_a_slow_process_is_named_once_after_a_stretch_and_again_when_it_has_caught_up(slow, how):
    verdicts, look = Verdicts(4), others(**slow)
    *before, last = said(verdicts, *[look] * STRETCH)
    assert not any(before)
    assert last == [f"slow: process 2: {how}, in {STRETCH} looks in a row; every step waits for it"]
    assert not any(said(verdicts, *[look] * STRETCH))
    *before, last = said(verdicts, *[USUAL] * STRETCH)
    assert not any(before)
    [line] = last
    assert line.startswith("no longer slow: process 2: its ")


def test_a_stretch_that_is_broken_is_none_and_what_all_do_is_not_slow():
    """Less than the factor, one look that is as usual, or batches that everybody waits for."""
    slow = others(product_seconds=0.033)
    a_little = others(product_seconds=0.011 * FACTOR * 0.99, batch_seconds=0.09)
    everybody = USUAL._replace(batch_seconds=[0.8] * 4, product_seconds=[0.5] * 4)
    for looks in ([slow] * (STRETCH - 1) + [USUAL] + [slow], [a_little] * STRETCH, [everybody] * STRETCH):
        assert not any(said(Verdicts(4), *looks))


def test_a_process_that_is_alone_makes_no_product_and_asks_nobody(monkeypatch):
    monkeypatch.setattr(slow_hosts, "Product", lambda devices: pytest.fail("a product"))
    hosts = SlowHosts(str)
    hosts.waited(1.0)
    hosts.step()
    assert hosts.look(10) is None


def test_a_product_is_timed_on_the_devices_of_one_process_while_the_mesh_of_the_run_has_others_too():
    with jax.set_mesh(make_mesh(4, 2)):
        product = Product(jax.devices()[2:4])
        assert 0 < product.seconds() < 60
        assert jax.sharding.get_abstract_mesh().size == 8
