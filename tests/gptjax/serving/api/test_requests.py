"""What the API is asked: what is taken, and by which name everything else is refused."""

import json

import pytest

from gptjax.serving.api import requests
from gptjax.serving.api.fields import DEEPEST, parsed
from gptjax.serving.errors import ApiError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {"model": "m", "prompt": "hello"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def refused(read, content, **fields):
    with pytest.raises(ApiError) as found:
        read(content | fields)
    assert found.value.status == 400
    return found.value


def chat(**fields):
    return requests.conversation(CHAT | fields)


def said(content, role="user"):
    return requests.conversation({"model": "m", "messages": [{"role": role, "content": content}]}).messages[0]


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "n": [0, -1, 129, 10**6, 1.0, "2", True, [1]],
        "max_tokens": [0, -1, 10**10, 1.5, "16", {}],
        "max_completion_tokens": [0, -1, "16"],
        "temperature": [-1, 2.1, 1e9, "hot", float("inf"), True],
        "top_p": [0, -0.1, 1.1, "1", []],
        "top_k": [-2, 1.5, "5"],
        "min_p": [-0.1, 1.5],
        "repetition_penalty": [0, -1, 3],
        "presence_penalty": [-2.1, 2.1],
        "frequency_penalty": [-2.1, 2.1],
        "seed": [2**70, -(2**70), 1.5, "1"],
        "stop": [["x"] * 1000, [""], "", [1], 5, ["x" * 2000]],
        "logprobs": [1, "yes"],
        "top_logprobs": [-1, 21, 10**6],
        "logit_bias": [[], {"a": 1}, {"-1": 1}, {"5": "x"}, {"5": 101}, {"5": None}, {"9" * 30: 1}],
        "stream": [1, "true"],
        "response_format": [{"type": "xml"}, "json", {}, {"type": "json_schema"}],
        "tools": [{}, [1], [{"type": "code"}], [{"type": "function", "function": {}}]],
        "tool_choice": ["required", {"type": "function", "function": {"name": "f"}}],
        "continue_final_message": [True, "yes"],
        "messages": [[], "hello", {}, [1], None],
        "model": [None, 1],
        "modalities": [["audio"], []],
        "functions": [[]],
        "audio": [{}],
        "reasoning_effort": ["high"],
    }.items(),
)  # fmt: skip
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field, values):
    shown = {"logprobs": True} if field == "top_logprobs" else {}
    for value in values:
        error = refused(requests.conversation, CHAT | shown, **{field: value})
        named = (error.param or "").partition("[")[0].partition(".")[0]
        assert named == ("messages" if field == "continue_final_message" and value is True else field), (value, error)


def test_bounds_themselves_are_taken():
    """What is refused just beyond them is taken at them."""
    edge = chat(
        n=128, temperature=2, top_p=1, top_k=-1, min_p=1, repetition_penalty=2, presence_penalty=-2,
        frequency_penalty=2, seed=2**63 - 1, stop=["x" * 16] * 64, logprobs=True, top_logprobs=20,
        logit_bias={"5": -100, "0": 100}, max_tokens=1,
    )  # fmt: skip
    assert (edge.n, edge.temperature, edge.top_k, edge.likeliest, len(edge.stop)) == (128, 2, None, 20, 64)
    assert edge.logit_bias == {5: -100, 0: 100}
    assert chat(temperature=0, top_k=3, min_p=0).min_p is None
    assert 0 <= edge.seed < 2**32


def test_null_is_as_if_nothing_was_said():
    fields = [
        *("n", "max_tokens", "temperature", "top_p", "top_k", "stop", "seed", "logprobs", "top_logprobs", "logit_bias"),
        *("stream", "stream_options", "response_format", "tools", "tool_choice", "presence_penalty", "regex"),
    ]
    plain, nulls = chat(seed=1), chat(**dict.fromkeys(fields) | {"seed": 1})
    assert nulls == plain
    assert chat(seed=1, top_p=0.5) != plain


def test_nobody_s_seed_is_another_each_time():
    assert chat().seed != chat().seed
    assert chat(seed=5).seed == chat(seed=5).seed == 5


def test_an_unknown_field_is_refused_with_what_was_probably_meant():
    error = refused(requests.conversation, CHAT, temprature=1)
    assert error.param == "temprature"
    assert error.code == "unknown_parameter"
    assert "did you mean 'temperature'?" in str(error)
    error = refused(requests.conversation, CHAT, messages=[{"role": "user", "content": "x", "nmae": "y"}])
    assert error.param == "messages[0].nmae"
    error = refused(requests.conversation, {"model": "m", "mesages": []})
    assert error.param == "messages"
    assert "did you mean 'mesages'?" in str(error)


def test_a_missing_field_is_held_against_few_names_that_are_there(monkeypatch):
    seen = []
    monkeypatch.setattr("gptjax.serving.api.fields.nearest", lambda name, known: seen.extend(known) or "")
    refused(requests.completion, {"x" * 10_000: 1} | {f"x{number}": 1 for number in range(100_000)})
    assert 0 < sum(map(len, seen)) < 10_000


@pytest.mark.parametrize("read", [requests.conversation, requests.completion])
def test_fields_that_change_nothing_may_be_there(read):
    content = CHAT if read is requests.conversation else COMPLETION
    assert read(content | {"seed": 1} | dict.fromkeys(requests.IGNORED, "x")) == read(content | {"seed": 1})


def test_the_first_limit_counts():
    assert (chat(max_tokens=5).tokens, chat(max_tokens=5, max_completion_tokens=7).tokens) == (5, 7)
    assert chat(max_tokens=5, max_completion_tokens=7).tokens_field == "max_completion_tokens"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ("", ("",)),
    ],
)
def test_a_prompt_is_texts_or_ids(prompt, read):
    assert requests.completion({"model": "m", "prompt": prompt}).prompts == read


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        (5, "prompt"),
        ([[]], "prompt[0]"),
        ([1, -2], "prompt[1]"),
        ([1, 2.0], "prompt[1]"),
        ([[1], [2, True]], "prompt[1][1]"),
        (["a", 1], "prompt[1]"),
        ([1, 10**30], "prompt[1]"),
        (None, "prompt"),
    ],
)
def test_other_prompts_are_refused_by_their_place(prompt, param):
    assert refused(requests.completion, {"model": "m"}, prompt=prompt).param == param


def test_completions_of_many_prompts_are_bounded():
    prompts = {"prompt": ["a"] * 100, "n": 5}
    assert len(requests.completion(COMPLETION | prompts).prompts) == 100
    assert refused(requests.completion, COMPLETION, **prompts | {"n": 6}).param == "n"
    assert refused(requests.completion, COMPLETION, best_of=3).param == "best_of"
    assert requests.completion(COMPLETION | {"best_of": 3, "n": 3}).n == 3
    assert refused(requests.completion, COMPLETION, suffix="x").code == "unsupported_parameter"


def test_content_is_text_or_parts_of_text():
    assert said("hello")["content"] == "hello"
    assert said([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])["content"] == "one\ntwo"
    for content, param in (
        (5, "content"),
        ([{"type": "image_url", "image_url": {}}], "content[0].type"),
        ([{"type": "text"}], "content[0].text"),
        (["text"], "content[0]"),
        (None, "content"),
    ):
        with pytest.raises(ApiError) as found:
            said(content)
        assert found.value.param == f"messages[0].{param}"


def test_roles_are_those_of_openai():
    assert said("x", "developer")["role"] == "system"
    with pytest.raises(ApiError, match="messages\\[0\\]\\.role must be") as found:
        said("x", "wizard")
    assert found.value.param == "messages[0].role"


def test_calls_reach_the_template_as_objects():
    """OpenAI's clients send arguments as text, which a template would write as a text of a text."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []}
    found = chat(messages=[*CHAT["messages"], turn, {"role": "tool", "content": "4", "tool_call_id": "1"}])
    assert found.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert found.messages[1]["content"] == ""
    call["function"]["arguments"] = "{"
    assert refused(requests.conversation, CHAT, messages=[turn]).param == (
        "messages[0].tool_calls[0].function.arguments"
    )


def test_tools_are_offered_unless_none_shall_be_called():
    assert chat(tools=[TOOL]).tools == (TOOL,)
    assert chat(tools=[TOOL], tool_choice="none").tools is None
    assert chat(tools=[]).tools is None


def test_forms_of_a_text():
    schema = {"type": "object"}
    asked = chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    )
    assert asked.form == {"type": "json_schema", "schema": schema}
    assert chat(response_format={"type": "json_object"}).form == {"type": "json_object"}
    assert chat(response_format={"type": "text"}).form is None
    assert chat(regex="a+").form == {"type": "regex", "regex": "a+"}
    assert refused(requests.conversation, CHAT, regex="a+", response_format={"type": "json_object"}).param == "regex"


def test_settings_that_need_another_are_refused_alone():
    assert refused(requests.conversation, CHAT, top_logprobs=2).param == "top_logprobs"
    assert refused(requests.conversation, CHAT, stream_options={"include_usage": True}).param == "stream_options"
    assert chat(stream=True, stream_options={"include_usage": True}).usage_in_stream


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "no number of JSON"),
        (b'{"a": -Infinity}', "no number of JSON"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 10_000 + b"]" * 10_000, "nested deeper"),
        (b'{"a":' * 10_000, "nested deeper"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'"' + b'\\"' * 500_000, "not JSON"),  # of which a careless pattern reads the rest from every quote on
    ],
)
def test_a_body_that_is_no_plain_json_is_refused(body, why):
    with pytest.raises(ApiError, match=why) as found:
        parsed(body)
    assert found.value.status == 400


def test_a_field_that_is_there_twice_is_found_at_once_among_many():
    many = ", ".join(f'"x{number}": 1' for number in range(100_000))
    with pytest.raises(ApiError, match="'x99999' twice"):
        parsed(f'{{{many}, "x99999": 1}}'.encode())


def test_brackets_in_texts_are_no_depth():
    deep = {"a": "[" * 1000 + '\\"{"'}
    assert parsed(json.dumps(deep).encode()) == deep
    assert parsed(b"[" * DEEPEST + b"]" * DEEPEST)


def test_1e999_is_no_temperature():
    assert refused(requests.conversation, CHAT, **parsed(b'{"temperature": 1e999}')).param == "temperature"


def test_errors_show_no_texts():
    """A prompt in the wrong place is not shown."""
    for field in ("messages", "temperature", "n", "logit_bias", "tools", "max_tokens"):
        assert "secret" not in str(refused(requests.conversation, CHAT, **{field: "my secret"}))


def test_tokenize_takes_a_text_or_messages():
    assert requests.tokenizing({"prompt": "x"}).special
    assert not requests.tokenizing({"messages": CHAT["messages"]}).special
    assert refused(requests.tokenizing, {}).param == "prompt"
    assert refused(requests.tokenizing, {"prompt": "x", "messages": CHAT["messages"]}).param == "prompt"
    assert refused(requests.tokenizing, {"messages": CHAT["messages"]}, add_special_tokens=True).param == (
        "add_special_tokens"
    )


def test_embeddings_are_floats_or_base64():
    asked = {"model": "m", "input": ["a", "b"]}
    assert not requests.embedding(asked).base64
    assert requests.embedding(asked | {"encoding_format": "base64"}).base64
    assert refused(requests.embedding, asked, encoding_format="int8").param == "encoding_format"
