"""gptjax.serving.api.looking: a look over HTTP is `model.look`, within bounds, beside texts that are written."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gptjax.config import SIZES, ModelConfig
from gptjax.look.look_page import seen
from gptjax.serving.api import looking
from gptjax.serving.errors import ApiError
from tests import served as tiny
from tests.gptjax.look.test_look_page import as_held, held
from tests.served import SECONDS, Client, T, served

IDS = [2, *range(30, 50)]


@pytest.fixture(scope="module")
def client():
    with served(tiny.model()) as client:
        yield client


def look(client: Client, prompt=IDS, **fields):
    return client.post("/look", {"model": "tiny", "prompt": prompt, **fields})


def test_the_page_has_the_numbers_of_model_look(client: Client):
    """Of exactly the ids that were sent, special ones too; and of a text, which begins as the model's texts do."""
    wanted = seen(tiny.model().look(IDS, token=12), "tiny")  # first: it compiles, for which no client waits
    page = look(client, token=12)
    assert page.headers["content-type"].startswith("text/html")
    assert held(page.text) == as_held(wanted)
    spoken = held(look(client, "a fox").text)
    assert [piece[0] for piece in spoken["pieces"]] == tiny.model().encode_prompt("a fox")
    assert spoken["why"]["place"] == len(spoken["pieces"])


def test_what_is_too_long_or_not_there_is_refused_in_a_sentence(client: Client):
    long = look(client, [5] * (T + 1))
    assert (long.status, long.error["param"]) == (400, "prompt")
    assert long.error["message"].startswith(f"prompt has {T + 1} tokens, and at most 512 of this model are looked at")
    assert look(client, token=len(IDS) + 1).error["message"].startswith("token=22: must be from 1")
    assert look(client, [10**6]).error["param"] == "prompt"
    assert look(client, ["one", "two"]).error["param"] == "prompt"


def test_a_larger_model_is_looked_into_over_fewer_tokens():
    """So that no look takes longer than about a minute of a processor."""
    small, large = (ModelConfig.of(SIZES[name](), 32_000) for name in ("nano", "llama-7b"))
    looking.check_length(min(512, small.T), small)
    with pytest.raises(ApiError, match="at most 64 of this model"):
        looking.check_length(200, large)
    looking.check_length(64, large)


def test_texts_are_written_while_a_model_is_looked_into(client: Client, monkeypatch):
    """A whole one, between the beginning of a look and its end."""
    begun, written = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        assert written.wait(SECONDS)
        return b"a page"

    monkeypatch.setattr(looking, "page", slow)
    with ThreadPoolExecutor(1) as beside:
        answer = beside.submit(look, client)
        assert begun.wait(SECONDS)
        assert client.complete("the fox", max_tokens=8).json["usage"]["completion_tokens"] == 8
        assert not answer.done()
        written.set()
        assert answer.result().text == "a page"


def test_the_chat_page_lets_run_what_a_page_of_a_look_runs_and_nothing_else(client: Client):
    """A page that it opens has its policy, and no other."""
    chat, opened = (answer.headers["content-security-policy"] for answer in (client.get("/"), look(client)))
    hashes = re.findall(r"'sha256-\S+'", opened)
    assert len(hashes) == 3  # program, data, style
    assert all(one in chat for one in hashes)
    for told in (chat, opened):
        assert "unsafe" not in told
        assert "connect-src 'self'" in told
