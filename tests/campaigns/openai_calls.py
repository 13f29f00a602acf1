"""The 40 calls of `openai_clients`, and what is right of each, worked out without the server."""

import base64
import dataclasses
import json
import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np

from gptjax.inference.language_model import LanguageModel, Sample

Ask = Callable[..., dict[str, Any]]  # of one client: see Served.__call__
CALLS: list[tuple[str, Callable[["Served", "Served"], None]]] = []
TEXT, OTHER, TALK = "In the morning the old house", "The captain said", "How are you today?"
TOKENS = 24
NEAR = 1e-4  # nats
EOS = 2
FREE_SECONDS = 10.0  # in which a slot that nobody reads must be free
# so many texts that none of them is over when a client gives up
LONG = {"max_tokens": 200, "n": 64, "logit_bias": {str(EOS): -100}, "temperature": 1}


class Failed(Exception):  # noqa: N818
    """What a client raised."""

    def __init__(self, error: dict[str, Any]):
        super().__init__(f"{error['class']}: {error['message']}")
        self.error = error


@dataclasses.dataclass(frozen=True)
class Served:
    """A server, asked by one of the clients, and the same model in this process."""

    ask: Callable[[dict[str, Any]], dict[str, Any]]
    address: str
    name: str
    key: str
    model: LanguageModel

    def __call__(self, do: str, of: str = "", *, extra: Any = None, timeout: float | None = None, key: str = "",
                 **arguments: Any) -> Any:  # fmt: skip
        """What the client gives for a call. Raises Failed as the client raises."""
        named = {"model": self.name, **arguments} if do not in ("list", "retrieve", "get") else {}
        asked = {"address": f"{self.address}/v1", "key": key or self.key, "do": do, "of": of, "arguments": named}
        answer = self.ask(asked | ({"extra": extra} if extra else {}) | ({"timeout": timeout} if timeout else {}))
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["found"]

    def refused(self, do: str, of: str = "", **arguments: Any) -> dict[str, Any]:
        """The error of a call that must fail."""
        try:
            answer = self(do, of, **arguments)
        except Failed as failed:
            return failed.error
        raise AssertionError(f"answered: {str(answer)[:200]}")

    def talk(self, text: str = TALK, **settings: Any) -> dict[str, Any]:
        """A reply, greedy unless the settings say more."""
        asked = {"messages": [user(text)], "temperature": 0, "max_completion_tokens": TOKENS, **settings}
        return self("create", "chat", **asked)

    def complete(self, prompt: Any = TEXT, **settings: Any) -> dict[str, Any]:
        return self("create", "completions", **{"prompt": prompt, "temperature": 0, "max_tokens": TOKENS, **settings})

    def wanted(self, prompt: str, **settings: Any) -> Sample:
        """What gptjax writes in this process; names of special tokens in the prompt count as such."""
        ids = [self.model.tokenizer.bos, *self.model.tokenizer.encode(prompt)]
        [[sample]] = self.model.generate([ids], **{"temperature": 0, "top_p": None, "tokens": TOKENS, **settings})
        return sample

    def log_probs(self, *texts: tuple[int, ...]) -> np.ndarray:
        """Of every token of a text but the first, nats, by the scorer, which shares nothing with the engine."""
        return self.model.log_probs([sum(texts, ())])[0]

    def metric(self, name: str) -> float:
        asked = urllib.request.Request(f"{self.address}/metrics", headers={"authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(asked) as page:
            [value] = re.findall(rf"^gptjax_{name} (\S+)$", page.read().decode(), re.MULTILINE)
        return float(value)

    def stays_busy(self) -> bool:
        """Whether a request is still decoded, or waits, after FREE_SECONDS."""
        end = time.monotonic() + FREE_SECONDS
        while self.metric("num_requests_running") + self.metric("num_requests_waiting"):
            if time.monotonic() > end:
                return True
            time.sleep(0.1)
        return False


def row(call: str) -> Callable[[Any], Any]:
    """One of CALLS; its docstring says what is right."""

    def keep(function: Callable[[Served, Served], None]) -> Any:
        CALLS.append((call, function))
        return function

    return keep


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(answer: dict[str, Any], index: int = 0) -> str:
    choice = answer["choices"][index]
    assert choice["index"] == index
    return choice["message"]["content"] if "message" in choice else choice["text"]


def joined(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def reason(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["finish_reason"]


# ---- models


@row("models.list()")
def models(base: Served, talks: Served) -> None:
    """one card: its name, owner, room"""
    [card] = talks("list")
    assert (card["id"], card["owned_by"], card["max_model_len"]) == (talks.name, "gptjax", talks.model.config.T)


@row("models.retrieve(NAME)")
def one_model(base: Served, talks: Served) -> None:
    """the card of the list"""
    assert talks("retrieve", talks.name) == talks("list")[0]


@row('models.retrieve("other")')
def no_model(base: Served, talks: Served) -> None:
    """NotFoundError 404, code model_not_found"""
    error = talks.refused("retrieve", "other")
    assert (error["class"], error["status"], error["code"]) == ("NotFoundError", 404, "model_not_found")


# ---- completions


@row("completions: a text")
def completion(base: Served, talks: Served) -> None:
    """gptjax.generate's greedy text; tokens counted"""
    answer, wanted = base.complete(), base.wanted(TEXT)
    assert (said(answer), reason(answer)) == (wanted.text, "length")
    usage = answer["usage"]
    prompt = 1 + len(base.model.tokenizer.encode(TEXT))
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (prompt, 24, prompt + 24)


@row("completions: a list of texts")
def completions(base: Served, talks: Served) -> None:
    """each one's text, in order"""
    answer = base.complete([TEXT, OTHER])
    assert [said(answer, 0), said(answer, 1)] == [base.wanted(TEXT).text, base.wanted(OTHER).text]


@row("completions: lists of ids")
def ids(base: Served, talks: Served) -> None:
    """the same texts as of the texts"""
    prompts = [[base.model.tokenizer.bos, *base.model.tokenizer.encode(text)] for text in (TEXT, OTHER)]
    answer = base.complete(prompts)
    assert [said(answer, 0), said(answer, 1)] == [base.wanted(TEXT).text, base.wanted(OTHER).text]
    assert said(base.complete(prompts[1])) == base.wanted(OTHER).text


@row("completions: echo, logprobs=3")
def echo(base: Served, talks: Served) -> None:
    """prompt and text; their log-probabilities to 1e-4"""
    answer, wanted = base.complete(echo=True, logprobs=3), base.wanted(TEXT)
    assert said(answer) == TEXT + wanted.text
    scores = answer["choices"][0]["logprobs"]
    prompt = (base.model.tokenizer.bos, *base.model.tokenizer.encode(TEXT))
    np.testing.assert_allclose(scores["token_logprobs"][1:], base.log_probs(prompt, wanted.ids), atol=NEAR)
    assert scores["token_logprobs"][0] is None
    assert all(scores["top_logprobs"][at][name] == scores["token_logprobs"][at]
               for at, name in enumerate(scores["tokens"]) if at)  # fmt: skip
    whole = scores["tokens"][0] + said(answer)
    at, token = scores["text_offset"][-1], scores["tokens"][-1]
    assert whole[len(scores["tokens"][0]) :][at : at + len(token)] == token


@row("completions: n=3, temperature 1")
def samples(base: Served, talks: Served) -> None:
    """the three samples of gptjax.generate, all different"""
    answer = base.complete(n=3, temperature=1, seed=5)
    wanted = base.model.generate(TEXT, samples=3, tokens=TOKENS, temperature=1, top_p=1.0, seed=5)
    assert [said(answer, index) for index in range(3)] == [sample.text for sample in wanted[0]]
    assert len({sample.text for sample in wanted[0]}) == 3


@row("completions: stop")
def stop(base: Served, talks: Served) -> None:
    """the text up to the first one, finish_reason stop"""
    whole = base.wanted(TEXT).text
    word = whole.split()[3]
    answer = base.complete(stop=word)
    assert (said(answer), reason(answer)) == (whole[: whole.index(word)], "stop")


@row("completions: stream")
def stream(base: Served, talks: Served) -> None:
    """many pieces, together the whole text"""
    chunks = base("stream", "completions", prompt=TEXT, temperature=0, max_tokens=TOKENS)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == base.wanted(TEXT).text
    assert len(chunks) > TOKENS // 2
    assert reason(chunks[-1]) == "length"


@row("completions: stream, include_usage")
def stream_usage(base: Served, talks: Served) -> None:
    """a last piece with no choice and the usage"""
    *chunks, last = base("stream", "completions", prompt=TEXT, temperature=0, max_tokens=TOKENS,
                         stream_options={"include_usage": True})  # fmt: skip
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == TOKENS
    assert all(chunk.get("usage") is None for chunk in chunks)


@row("completions: seed")
def seed(base: Served, talks: Served) -> None:
    """the same text again; another of another seed"""
    first, again, other = (said(base.complete(temperature=1, seed=number)) for number in (7, 7, 8))
    assert first == again != other


@row("completions: logit_bias")
def bias(base: Served, talks: Served) -> None:
    """the text of gptjax.generate without its likeliest token"""
    wanted = base.wanted(TEXT)
    without = base.wanted(TEXT, logit_bias={wanted.ids[0]: -100})
    assert said(base.complete(logit_bias={str(wanted.ids[0]): -100})) == without.text != wanted.text


# ---- chats


@row("chat: one turn, twice")
def turn(base: Served, talks: Served) -> None:
    """the greedy reply of this process, both times"""
    asked = {"messages": [user(TALK)], "temperature": 0, "max_completion_tokens": TOKENS}
    answer, wanted = talks("create", "chat", **asked), talks.wanted(f"A: {TALK}\nB:")
    assert said(answer) == said(talks("create", "chat", **asked)) == wanted.text.lstrip()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert reason(answer) == {"eos": "stop", "length": "length"}[wanted.ended]
    assert answer["usage"]["completion_tokens"] == len(wanted.ids)


def replied(talks: Served, messages: list[Any], wanted: Sample) -> None:
    """Whether messages get a reply, and its log-probabilities, for other prompts may get the same text."""
    answer = talks("create", "chat", messages=messages, temperature=0, max_completion_tokens=TOKENS, logprobs=True)
    assert said(answer) == wanted.text.lstrip()
    found = [token["logprob"] for token in answer["choices"][0]["logprobs"]["content"]]
    np.testing.assert_allclose(found, wanted.log_probs, atol=NEAR)


@row("chat: system message")
def system(base: Served, talks: Served) -> None:
    """the reply to the template's text"""
    wanted = talks.wanted(f"S: Be brief.\nA: {TALK}\nB:")
    replied(talks, [{"role": "system", "content": "Be brief."}, user(TALK)], wanted)


@row("chat: developer message")
def developer(base: Served, talks: Served) -> None:
    """as a system message"""
    wanted = talks.wanted(f"S: Be brief.\nA: {TALK}\nB:")
    replied(talks, [{"role": "developer", "content": "Be brief."}, user(TALK)], wanted)


@row("chat: three turns")
def turns(base: Served, talks: Served) -> None:
    """the reply to all of them; the client's own message goes back as it came"""
    first = talks.talk()["choices"][0]["message"]
    encode = talks.model.tokenizer.encode
    ids = [talks.model.tokenizer.bos, *encode(f"A: {TALK}\nB: {first['content']}"), EOS, *encode("\nA: Why?\nB:")]
    [[wanted]] = talks.model.generate([ids], temperature=0, tokens=TOKENS)
    replied(talks, [user(TALK), first, user("Why?")], wanted)


@row("chat: content in parts")
def parts(base: Served, talks: Served) -> None:
    """as the same text in one"""
    content = [{"type": "text", "text": "How are"}, {"type": "text", "text": "you today?"}]
    replied(talks, [user(content)], talks.wanted(f"A: {TALK}\nB:"))


@row("chat: stream, include_usage")
def chat_stream(base: Served, talks: Served) -> None:
    """role first, pieces, reason, usage: together the reply"""
    whole = talks.talk()
    *chunks, last = talks("stream", "chat", messages=[user(TALK)], temperature=0, max_completion_tokens=TOKENS,
                          stream_options={"include_usage": True})  # fmt: skip
    assert joined(chunks) == said(whole)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert reason(chunks[-1]) == reason(whole)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], whole["usage"]["total_tokens"])
    assert len({chunk["id"] for chunk in chunks}) == 1


@row("chat: n=3, streamed and whole")
def chat_samples(base: Served, talks: Served) -> None:
    """three replies, the same both ways, not all alike"""
    settings = {"n": 3, "temperature": 1, "seed": 3}
    whole = talks.talk(**settings)
    replies = [said(whole, index) for index in range(3)]
    chunks = talks("stream", "chat", messages=[user(TALK)], max_completion_tokens=TOKENS, **settings)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    told = ["".join(one["delta"].get("content") or "" for one in choices if one["index"] == at) for at in range(3)]
    assert told == replies
    assert len(set(replies)) > 1


@row("chat: stop, a list")
def chat_stop(base: Served, talks: Served) -> None:
    """the reply up to the earlier of two, finish_reason stop"""
    whole = said(talks.talk())
    first, second = whole.split()[2], whole.split()[3]
    answer = talks.talk(stop=[second, first])
    assert (said(answer), reason(answer)) == (whole[: whole.index(first)], "stop")


@row("chat: logprobs, top_logprobs=4")
def chat_log_probs(base: Served, talks: Served) -> None:
    """to 1e-4 the scorer's; likeliest first; bytes are the reply's"""
    answer, wanted = talks.talk(logprobs=True, top_logprobs=4), talks.wanted(f"A: {TALK}\nB:")
    tokens = answer["choices"][0]["logprobs"]["content"]
    prompt = (talks.model.tokenizer.bos, *talks.model.tokenizer.encode(f"A: {TALK}\nB:"))
    scored = talks.log_probs(prompt, wanted.ids)[len(prompt) - 1 :]
    np.testing.assert_allclose([token["logprob"] for token in tokens], scored, atol=NEAR)
    assert bytes(byte for token in tokens for byte in token["bytes"] or []).decode() == wanted.text
    for token in tokens:
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert tops == sorted(tops, reverse=True)
        assert (len(tops), tops[0], token["top_logprobs"][0]["token"]) == (4, token["logprob"], token["token"])


@row("chat: max_completion_tokens=3")
def limit(base: Served, talks: Served) -> None:
    """three tokens, finish_reason length"""
    answer = talks.talk(max_completion_tokens=3)
    assert (answer["usage"]["completion_tokens"], reason(answer)) == (3, "length")
    assert said(talks.talk()).startswith(said(answer))


@row("chat: seed")
def chat_seed(base: Served, talks: Served) -> None:
    """the same reply again; another of another seed"""
    first, again, other = (said(talks.talk(temperature=1, seed=number)) for number in (7, 7, 8))
    assert first == again != other


@row("chat: presence and frequency penalty")
def penalties(base: Served, talks: Served) -> None:
    """the replies of gptjax.generate with either, others than without"""
    plain = said(talks.talk())
    for settings in ({"presence_penalty": 2}, {"frequency_penalty": 2}):
        assert said(talks.talk(**settings)) == talks.wanted(f"A: {TALK}\nB:", **settings).text.lstrip() != plain


@row("chat: response_format json_object")
def json_object(base: Served, talks: Served) -> None:
    """the reply is a JSON object"""
    answer = talks.talk(response_format={"type": "json_object"}, max_completion_tokens=200)
    assert reason(answer) == "stop"
    assert isinstance(json.loads(said(answer)), dict)


@row("chat: response_format json_schema, strict")
def json_schema(base: Served, talks: Served) -> None:
    """streamed and whole, the reply has the schema's fields, kinds and values"""
    schema = {
        "type": "object",
        "properties": {
            "mood": {"enum": ["good", "bad"]},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
            "sure": {"type": "boolean"},
        },
        "required": ["mood", "stars", "tags", "sure"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "opinion", "strict": True, "schema": schema}}
    asked = {"messages": [user(TALK)], "response_format": form, "max_completion_tokens": 120, "temperature": 1}
    for number in range(4):
        chunks = talks("stream", "chat", **asked, seed=number)
        text = said(talks("create", "chat", **asked, seed=number))
        assert joined(chunks) == text
        found = json.loads(text)
        assert set(found) == {"mood", "stars", "tags", "sure"}
        assert found["mood"] in ("good", "bad")
        assert found["stars"] in range(1, 6)
        assert isinstance(found["sure"], bool)
        assert len(found["tags"]) <= 2
        assert all(isinstance(tag, str) and len(tag) <= 8 for tag in found["tags"])


@row("chat: regex, a field of ours")
def regex(base: Served, talks: Served) -> None:
    """the reply matches it as a whole"""
    pattern = r"(Yes|No), [a-z]{3,9}\."
    for number in range(4):
        assert re.fullmatch(pattern, said(talks.talk(extra={"regex": pattern}, temperature=1, seed=number)))


# ---- what is refused


@row("chat: tools")
def tools(base: Served, talks: Served) -> None:
    """BadRequestError: this template shows none"""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    error = talks.refused("create", "chat", messages=[user(TALK)], tools=[tool])
    assert (error["class"], error["status"], error["param"]) == ("BadRequestError", 400, "tools")


@row("chat: a field that nobody knows")
def unknown(base: Served, talks: Served) -> None:
    """BadRequestError that names it, code unknown_parameter"""
    error = talks.refused("create", "chat", messages=[user(TALK)], extra={"temprature": 1})
    assert (error["class"], error["param"], error["code"]) == ("BadRequestError", "temprature", "unknown_parameter")
    assert "temperature" in error["message"]


@row("chat: temperature=9")
def hot(base: Served, talks: Served) -> None:
    """BadRequestError of type invalid_request_error, with the request's id"""
    error = talks.refused("create", "chat", messages=[user(TALK)], temperature=9)
    assert (error["class"], error["param"]) == ("BadRequestError", "temperature")
    assert error["type"] == "invalid_request_error"
    assert error["request_id"].startswith("req_")


@row("chat: beyond the context")
def too_long(base: Served, talks: Served) -> None:
    """BadRequestError, code context_length_exceeded"""
    error = talks.refused("create", "chat", messages=[user("word " * 400)])
    assert (error["class"], error["code"]) == ("BadRequestError", "context_length_exceeded")


@row("models.list() with a wrong key")
def wrong_key(base: Served, talks: Served) -> None:
    """AuthenticationError 401, code invalid_api_key; the right one passes"""
    error = base.refused("list", key="sk-of-somebody-else")
    assert (error["class"], error["status"], error["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    assert len(base("list")) == 1


@row('get("/nothing")')
def no_path(base: Served, talks: Served) -> None:
    """NotFoundError 404"""
    error = talks.refused("get", "/nothing")
    assert (error["class"], error["status"]) == ("NotFoundError", 404)


# ---- embeddings


@row("embeddings: float")
def embeddings(base: Served, talks: Served) -> None:
    """the mean states of this process, to 1e-4"""
    answer = base("create", "embeddings", input=[TEXT, OTHER], encoding_format="float")
    ids = [[base.model.tokenizer.bos, *base.model.tokenizer.encode(text)] for text in (TEXT, OTHER)]
    found = [one["embedding"] for one in answer["data"]]
    np.testing.assert_allclose(found, base.model.mean_states(ids), atol=NEAR)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))


@row("embeddings: base64")
def packed(base: Served, talks: Served) -> None:
    """asked for by name, and by the client alone: the same numbers"""
    [plain] = base("create", "embeddings", input=TEXT, encoding_format="float")["data"]
    [unpacked] = base("create", "embeddings", input=TEXT)["data"]
    [packed] = base("create", "embeddings", input=TEXT, encoding_format="base64")["data"]
    wanted = np.asarray(plain["embedding"], np.float32)
    np.testing.assert_array_equal(np.asarray(unpacked["embedding"], np.float32), wanted)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed["embedding"]), "<f4"), wanted)


# ---- clients that leave


@row("chat: the client's time is over")
def timed_out(base: Served, talks: Served) -> None:
    """the client's timeout error; no slot stays taken"""
    drawn = talks.metric("generation_tokens_total")
    error = talks.refused("create", "chat", messages=[user(TALK)], timeout=0.5, **LONG)
    assert error["class"] in ("APITimeoutError", "APIConnectionTimeoutError")
    assert not talks.stays_busy()
    assert 0 < talks.metric("generation_tokens_total") - drawn < LONG["n"] * LONG["max_tokens"]


@row("chat: a call is cancelled, a stream is closed")
def aborted(base: Served, talks: Served) -> None:
    """three pieces were read; no slot stays taken; next reply right"""
    drawn, left = talks.metric("generation_tokens_total"), talks.metric("client_disconnects_total")
    assert talks("cancel", "chat", messages=[user(TALK)], timeout=0.5, **LONG) == "cancelled"
    assert not talks.stays_busy()
    assert len(talks("abort", "chat", messages=[user(TALK)], **LONG)) == 3
    assert not talks.stays_busy()
    assert 0 < talks.metric("generation_tokens_total") - drawn < LONG["n"] * LONG["max_tokens"]
    assert talks.metric("client_disconnects_total") > left
    assert said(talks.talk()) == talks.wanted(f"A: {TALK}\nB:").text.lstrip()


# ---- the clients' own helpers


@row("chat.completions.stream(), the helper")
def helper(base: Served, talks: Served) -> None:
    """its pieces and its final completion are the reply"""
    whole = talks.talk()
    found = talks("helper", "chat", messages=[user(TALK)], temperature=0, max_completion_tokens=TOKENS)
    assert "".join(found["deltas"]) == said(found["final"]) == said(whole)
    assert reason(found["final"]) == reason(whole)


@row("chat.completions.parse(), a model of pydantic or zod")
def parse(base: Served, talks: Served) -> None:
    """an object of its kind, which the text spells"""
    found = talks("parse", "chat", messages=[user(TALK)], max_completion_tokens=60, seed=1)
    assert found["parsed"] == json.loads(found["content"])
    assert found["parsed"]["city"] in ("Paris", "London", "Rome")
    assert found["parsed"]["degrees"] in range(41)
    assert isinstance(found["parsed"]["rain"], bool)
