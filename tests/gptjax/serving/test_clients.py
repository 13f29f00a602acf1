"""OpenAI's own client for Python against the API, where it is installed."""

import time

import pytest

from tests import served as tiny
from tests.served import Client, T, served

openai = pytest.importorskip("openai")

KEY = "sk-0123456789abcdef"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def server():
    with served(tiny.model(), keys=(KEY,)) as client:
        yield client


@pytest.fixture(scope="module")
def api(server: Client):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0) as api:
        yield api


def test_its_models(api):
    assert [model.id for model in api.models.list()] == ["tiny"]
    assert api.models.retrieve("tiny").owned_by == "gptjax"


def test_its_chat_streamed_and_whole(api):
    whole = api.chat.completions.create(**ASK, n=2, logprobs=True, top_logprobs=2)
    stream = api.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12
    assert whole.choices[1].finish_reason == "length"
    assert len(whole.choices[0].logprobs.content) == 12


def test_its_helpers_for_streams(api):
    """They put a reply together from its events, and are strict about their order."""
    stop = api.chat.completions.create(**ASK).choices[0].message.content[5]
    whole = api.chat.completions.create(**ASK, stop=stop).choices[0]
    with api.chat.completions.stream(**ASK, stop=stop, logprobs=True) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert (final.message.content, final.finish_reason) == (whole.message.content, "stop")
    assert {"content.delta", "content.done", "logprobs.content.done"} <= kinds


def test_its_completions_and_embeddings(api, server: Client):
    text = api.completions.create(model="tiny", prompt="fox", temperature=0, max_tokens=5, echo=True, logprobs=1)
    assert text.choices[0].text.startswith("fox")
    assert text.choices[0].logprobs.token_logprobs[0] is None
    vector = api.embeddings.create(model="tiny", input="fox").data[0].embedding  # it asks for base64
    floats = api.embeddings.create(model="tiny", input="fox", encoding_format="float").data[0].embedding
    assert vector == pytest.approx(floats)
    assert len(vector) == server.worker.model.config.D


def test_its_errors(api, server: Client):
    with pytest.raises(openai.BadRequestError) as found:
        api.chat.completions.create(**ASK | {"temperature": 9})
    assert (found.value.param, found.value.type) == ("temperature", "invalid_request_error")
    assert found.value.request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as found:
        api.completions.create(model="tiny", prompt=[5] * (T + 1))
    assert found.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.create(**ASK | {"model": "other"})
    with (
        openai.OpenAI(base_url=api.base_url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_its_timeout_and_its_closed_stream_free_the_slot(api, server: Client):
    long = ASK | {"max_tokens": 400, "n": 4, "logit_bias": {"2": -100, "239": -100}}
    with pytest.raises(openai.APITimeoutError):
        api.with_options(timeout=0.05).chat.completions.create(**long)
    stream = api.chat.completions.create(**long, stream=True)
    next(iter(stream))
    stream.close()
    begun = time.monotonic()
    while server.worker.running and time.monotonic() < begun + 20:
        time.sleep(0.01)
    assert server.worker.running == 0
