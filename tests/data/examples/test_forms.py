"""Forms of examples: which a record has, the conversation it is, and what is said of one that is none."""

import pytest

from data.examples.forms import FORMS, conversation, recognised

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
RECORDS = {  # form -> (record, turns, group)
    "messages": (
        {"messages": [{"role": "system", "content": "Be kind."}, *HELLO]},
        [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi")],
        "system: Be kind.\nuser: Hello\nassistant: Hi",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}], "system": "Be kind."},
        [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi")],
        "system: Be kind.\nuser: Hello\nassistant: Hi",
    ),
    "alpaca": (
        {
            "instruction": "Add.",
            "input": "1 and 2",
            "output": "3",
            "system": "",
            "history": [["Hello", "Hi"]],
        },
        [("user", "Hello"), ("assistant", "Hi"), ("user", "Add.\n1 and 2"), ("assistant", "3")],
        "Add.\n1 and 2",
    ),
    "prompt_completion": (
        {"prompt": "Hello", "response": "Hi", "system": "Be kind."},
        [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi")],
        "Hello",
    ),
    "question_answer": (
        {
            "context": "It rains.",
            "question": "Is it dry?",
            "answers": {"text": ["No", "It rains"], "answer_start": [0]},
        },
        [("user", "It rains.\n\nIs it dry?"), ("assistant", "No")],
        "It rains.",
    ),
    "source_target": ({"source": "rain", "target": "雨"}, [("user", "rain"), ("assistant", "雨")], "rain"),
}


def read(record, form=None, columns=None, learn="all"):
    return conversation(record, "f:7", form or recognised(record, "f:7"), columns or {}, learn)


def turns(record, **how):
    return [(message.role, message.content) for message in read(record, **how).messages]


def learned(record, **how):
    return [message.learn for message in read(record, **how).messages]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised_and_read(form):
    """Fields of others beside its own move nothing; what the assistant says is learned, and nothing else."""
    record, said, group = RECORDS[form]
    for given in (record, {"id": 3, **record, "lang": "en"}):
        assert recognised(given, "f:7") == form
        found = read(given)
        assert [(message.role, message.content) for message in found.messages] == said
        assert (found.group, found.where) == (group, "f:7")
        assert learned(given) == [role == "assistant" for role, _ in said]


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_other_names_are_read_by_dotted_paths(form):
    """Each part may lie anywhere; under its own name it is then not looked for."""
    record, said, _ = RECORDS[form]
    paths = {
        part: next(path for path in paths if path in record)
        for part, paths in FORMS[form].columns.items()
        if any(path in record for path in paths)
    }
    moved = {"deep": [{f"my {part}": record[path] for part, path in paths.items()}], "messages": "no", "prompt": 3}
    assert turns(moved, form=form, columns={part: f"deep.0.my {part}" for part in paths}) == said


def test_optional_fields_may_be_absent_null_or_empty():
    for beside in ({}, {"input": ""}, {"input": None, "system": None, "history": []}):
        record = {"instruction": "Add.", **beside, "output": "3"}
        assert turns(record) == [("user", "Add."), ("assistant", "3")]
    assert turns({"question": "2 + 1?", "answer": "3"}) == [("user", "2 + 1?"), ("assistant", "3")]
    assert read({"question": "2 + 1?", "answer": "3"}).group == "2 + 1?"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "a", "prompt": "b"}, r"f:7: the fields text, prompt are of no form .*alpaca \(instruction, output\)"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"prompt_completion \(prompt, completion or response\)"),
        ({"messages": HELLO, "prompt": "a", "completion": "b"}, "may be read as messages or as prompt_completion"),
        ({"messages": "a"}, "the fields messages are of no form"),
        ({}, r"the fields \(none\) are of no form"),
    ],
)
def test_a_record_of_no_form_or_of_several_is_told_its_fields(record, said):
    with pytest.raises(ValueError, match=said):
        recognised(record, "f:7")


@pytest.mark.parametrize(
    ("form", "columns", "said"),
    [
        ("alpacca", {}, r"form='alpacca'.*did you mean 'alpaca'\?"),
        ("alpaca", {"outputs": "x"}, r"alpaca has no 'outputs'; did you mean 'output'\?"),
        ("alpaca", {"output": "answr"}, r"f:7: no field 'answr'; did you mean 'answer'\?"),
        ("alpaca", {"output": "answer", "input": "in"}, r"f:7: no field 'in'; known: answer, instruction"),
        ("alpaca", {}, r"f:7: no field 'output'"),
    ],
)
def test_a_misspelt_form_part_or_field_is_answered_with_the_nearest(form, columns, said):
    with pytest.raises(ValueError, match=said):
        read({"instruction": "a", "answer": "b"}, form=form, columns=columns)


def of(*said, **last):
    """A record of messages, the last with further fields."""
    messages = [{"role": role, "content": content} for role, content in said]
    messages[-1] |= last
    return {"messages": messages}


U, A, S, T = ("user", "u"), ("assistant", "a"), ("system", "s"), ("tool", "t")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ((A, U), r"f:7: turn 1: assistant at the beginning"),
        ((U, S, A), r"turn 2: system after user; a system turn comes first"),
        ((S, S, U, A), r"turn 2: system after system"),
        ((U, U, A), r"turn 2: user after user"),
        ((U, A, A), r"turn 3: assistant after assistant"),
        ((S, A), r"turn 2: assistant after system"),
        ((U, T, A), r"turn 2: tool after user"),
        ((U, A, T, U), r"turn 4: user after tool"),
        ((U,), r"f:7: has no assistant turn"),
        ((S,), r"f:7: has no assistant turn"),
        ((U, ("assistant", " \n")), r"turn 2: assistant says nothing"),
        ((("user", ""), A), r"turn 1: user says nothing"),
        ((U, ("asistant", "a")), r"turn 2: unknown role 'asistant'; did you mean 'assistant'\?"),
        ((U, ("assistant", None)), r"turn 2: content: a NoneType where a text must be"),
        ((U, ("assistant", [{"type": "image_url"}])), r"turn 2: content: a part of the type 'image_url'; only text"),
    ],
)
def test_turns_that_are_no_conversation_are_named(said, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(of(*said))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"messages": ["a"]}, "f:7: turn 1: a str; a turn is an object with role and content"),
        ({"messages": [{"role": "user", "contents": "a"}]}, r"f:7: turn 1: no field 'content'; did you mean 'content"),
        ({"messages": []}, "f:7: has no assistant turn"),
        ({"messages": 3}, "f:7: a int where turns must be listed"),
    ],
)
def test_a_list_that_is_none_of_turns_is_named(record, said):
    with pytest.raises(ValueError, match=said):
        read(record, form="messages")


def test_turns_after_the_last_answer_are_dropped():
    """Nobody answers them, so nothing is learned of them; nor do they tell twins apart."""
    assert read(of(U, A, U)) == read(of(U, A))
    assert turns(of(S, U, A, T)) == [S, U, A]
    assert turns(of(U, A, U, A)) == [U, A, U, A]


def test_the_developer_of_newer_files_is_the_system_and_parts_are_one_text():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert turns(of(("developer", "s"), ("user", parts), A)) == [S, ("user", "one two"), A]


def test_a_role_within_a_text_is_text():
    """Neither lines like ours nor marks of templates begin a turn."""
    text = "B: no\nassistant: no\n<|im_start|>assistant\nno<|im_end|>"
    assert turns(of(("user", text), A)) == [("user", text), A]


def test_tools_and_their_calls_are_text():
    """A call is JSON between marks, whether its arguments came as text or as an object."""
    for arguments in ('{"a": 12}', {"a": 12}):
        calls = [{"type": "function", "function": {"name": "half", "arguments": arguments}}]
        record = of(U, ("assistant", None), tool_calls=calls)
        record["messages"] += [{"role": "tool", "content": "6"}, {"role": "assistant", "content": "Six."}]
        said = '<tool_call>\n{"name": "half", "arguments": {"a": 12}}\n</tool_call>'
        assert turns(record) == [U, ("assistant", said), ("tool", "6"), ("assistant", "Six.")]
        assert learned(record) == [False, True, False, True]
        record["messages"][1]["content"] = "Wait."
        assert turns(record)[1] == ("assistant", f"Wait.\n{said}")
    calls[0]["function"] = {"name": "half", "arguments": "a=12"}
    with pytest.raises(ValueError, match="f:7: turn 2: the arguments of 'half' are not JSON: 'a=12'"):
        turns(of(U, ("assistant", None), tool_calls=calls))
    with pytest.raises(ValueError, match=r"no field 'function\.arguments'"):
        turns(of(U, ("assistant", None), tool_calls=[{"function": {"name": "half"}}]))


@pytest.mark.parametrize("name", ["learn", "weight"])
@pytest.mark.parametrize(("no", "yes"), [(False, True), (0, 1)])
def test_all_the_last_or_the_marked_answers_are_learned(name, no, yes):
    """A turn of which nothing is said is learned; a mark that would not be heeded is an error."""
    record = of(U, A, U, A, U, A)
    assert learned(record) == learned(record, learn="marked") == [False, True] * 3
    assert learned(record, learn="last") == [False] * 5 + [True]
    record["messages"][1][name] = no
    record["messages"][3][name] = yes
    assert learned(record, learn="marked") == [False, False, False, True, False, True]
    assert learned(record, learn="last") == [False] * 5 + [True]
    with pytest.raises(ValueError, match="f:7: turn 2 is marked not to be learned, and learn='all' learns it"):
        learned(record)


def test_marks_that_cannot_be_heeded_are_named():
    with pytest.raises(ValueError, match="f:7: every assistant turn is marked not to be learned"):
        learned(of(U, A, weight=0), learn="marked")
    with pytest.raises(ValueError, match=r"f:7: turn 2: weight=0\.5 must be true, false, 1 or 0"):
        learned(of(U, A, weight=0.5), learn="marked")
    record = of(U, A)
    record["messages"][0]["learn"] = True
    with pytest.raises(ValueError, match="f:7: turn 1: user is marked to be learned; only an assistant can be"):
        learned(record, learn="marked")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": [{"a": 1}], "completion": "b"}, "f:7: prompt: a part of the type 'None'; only text is read"),
        ({"prompt": "a", "completion": 3}, "f:7: the answer: a int where a text must be"),
        ({"prompt": None, "completion": "a"}, "f:7: prompt is null"),
        ({"prompt": "a", "completion": ""}, "f:7: turn 2: assistant says nothing"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "history=.* must be a list of pairs"),
        ({"question": "a", "answers": {"text": []}}, "f:7: has no answer; leave it out"),
        ({"question": "a", "answers": {"texts": []}}, r"f:7: answer: no field 'text'; did you mean 'texts'\?"),
    ],
)
def test_a_field_of_another_kind_is_named(record, said):
    form = "alpaca" if "instruction" in record else "question_answer" if "question" in record else "prompt_completion"
    with pytest.raises(ValueError, match=said):
        read(record, form=form)
