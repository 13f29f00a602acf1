"""Signs of life of processes that share no file system reach each other through JAX's coordination service."""

import time

import jax
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from train.supervision import signs
from train.supervision.signs import KEYS, SignExchange


class Service:
    """Stands in for the coordination service."""

    def __init__(self):
        self.kept: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        assert allow_overwrite
        self.kept[key] = value

    def key_value_delete(self, key: str) -> None:
        self.kept.pop(key, None)

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.kept.items() if name.startswith(key)]


@pytest.fixture
def service(monkeypatch):
    made = Service()
    monkeypatch.setattr(ocp.multihost, "get_jax_distributed_client", lambda: made)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", lambda name: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(signs, "HEARTBEAT", 0.01)
    return made


def wait_until(true) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_each_process_has_the_other_s_newest_sign_and_none_of_one_that_has_left(service, tmp_path):
    own, other = tmp_path / "lease/0.json", tmp_path / "lease/1.json"
    own.parent.mkdir()
    own.write_text("here, at step 1")
    service.kept[f"{KEYS}1"] = "there, at step 1"
    exchange = SignExchange(tmp_path)
    exchange.start()
    assert (service.kept[f"{KEYS}0"], other.read_text()) == ("here, at step 1", "there, at step 1")
    own.write_text("here, at step 2")
    service.kept[f"{KEYS}1"] = "there, at step 2"
    wait_until(lambda: (service.kept[f"{KEYS}0"], other.read_text()) == ("here, at step 2", "there, at step 2"))
    del service.kept[f"{KEYS}1"]
    own.unlink()
    wait_until(lambda: not other.exists() and not service.kept)
    exchange.stop()
    service.kept[f"{KEYS}1"] = "there, at step 3"
    assert not other.exists()


def test_a_service_that_does_not_answer_brings_no_sign_and_ends_nothing(service, tmp_path):
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease/0.json").write_text("here")
    service.kept[f"{KEYS}1"] = "there, at step 1"
    exchange = SignExchange(tmp_path)
    exchange.start()
    answers, service.key_value_dir_get = service.key_value_dir_get, _unavailable
    service.kept[f"{KEYS}1"] = "there, at step 2"
    asked.clear()
    wait_until(lambda: len(asked) > 2)
    assert (tmp_path / "lease/1.json").read_text() == "there, at step 1"
    service.key_value_dir_get = answers
    wait_until(lambda: (tmp_path / "lease/1.json").read_text() == "there, at step 2")
    exchange.stop()


asked: list[str] = []


def _unavailable(key: str):
    asked.append(key)
    raise jax.errors.JaxRuntimeError("UNAVAILABLE")
