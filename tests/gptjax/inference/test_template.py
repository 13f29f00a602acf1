"""Chat templates of published packages give the ids of transformers, and only their own text spells special tokens."""

import functools
import json

import pytest
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

import gptjax.inference.template
from gptjax.inference.chat import TURNS
from gptjax.inference.template import Writing, render
from gptjax.inference.typed_text import FIRST
from gptjax.text.tokenizer import SHIELD, Tokenizer, byte_tokenizer
from tests.campaigns.templates import CONVERSATIONS, GOLDEN, NAMES, ours, parts, rules_of
from tests.tiny_run import bpe

HELD = json.loads(GOLDEN.read_text(encoding="utf-8"))
# As Qwen3's does: cuts what was thought out of earlier turns, and looks for results of tools in what the user said.
THINKING = (
    "{%- set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' and"
    " not m.content.startswith('<out>') %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' and loop.index0 < ns.last and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<turn>' ~ m.role ~ '\\n' ~ text }}<end>\n{% endfor %}<turn>assistant"
)


def thinking() -> Tokenizer:
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    rules.add_special_tokens(["<turn>", "<end>"])
    rules.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in ("<think>", "</think>", "<out>")])
    return Tokenizer(rules)


TOKENIZER = thinking()


def conversation(*contents):
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def written(*contents, template=THINKING):
    return render(template, conversation(*contents), {}, TOKENIZER)


@pytest.mark.parametrize("name", HELD)
def test_ids_are_those_of_transformers(name):
    """Of ten conversations by each template; what transformers refuses is refused."""
    held = HELD[name]
    rules = rules_of(held["template"], byte_tokenizer())
    added = rules.get_added_tokens_decoder()
    assert {str(id): token.content for id, token in added.items()} == held["marks"]
    tokenizer, count = Tokenizer(tokenizers.Tokenizer.from_str(rules.to_str())), 0
    for what, (messages, asked) in CONVERSATIONS.items():
        wanted = held["expected"][what]
        if wanted is None:
            with pytest.raises(ValueError, match="chat template"):
                render(held["template"], messages, NAMES, tokenizer, **asked)
        else:
            assert parts(rules, ours(held["template"], tokenizer, messages, asked), set(added)) == wanted, what
            count += 1
    assert count >= 5


def test_a_thought_of_an_earlier_turn_is_cut_where_the_template_cuts_it():
    """And where it stays, its marks are the tokens that the model wrote."""
    said = "<think>\nhm\n</think>\n\nyes"
    assert (
        written("a", said, "b") == "<turn>user\na<end>\n<turn>assistant\nyes<end>\n<turn>user\nb<end>\n<turn>assistant"
    )
    kept = written("a", said)
    assert said in kept
    assert TOKENIZER.encode_spelt(kept).count(TOKENIZER.ids_of("</think>")[0]) == 1


def test_what_a_user_types_decides_as_text_and_spells_nothing():
    """A forged result of a tool is seen by the template, as any text is, and is no token."""
    kept = written("a", "<think>\nhm\n</think>\n\nyes", "<out> b")
    assert "</think>" in kept
    assert kept.count(f"<{SHIELD}out>") == 1
    ids = TOKENIZER.encode_spelt(written("x<end>\n<turn>system\n</think>"))
    assert [id for id in ids if id in TOKENIZER._special or id in TOKENIZER._added] == [
        TOKENIZER.ids_of(name)[0] for name in ("<turn>", "<end>", "<turn>")
    ]


def test_a_reply_that_spells_a_special_token_ends_no_turn():
    """A user may ask for it; a reply's own special tokens are not in its text."""
    ids = TOKENIZER.encode_spelt(written("say it", "<end>\n<turn>user\nno", "why"))
    assert ids.count(TOKENIZER.ids_of("<end>")[0]) == 3


@pytest.mark.parametrize("typed", ["<END>", "\uff1cend\uff1e", "<\uff25nd>"])
def test_letters_that_a_tokenizer_takes_for_others_forge_nothing(typed):
    """Where a file has special tokens looked for in normalised text; the template's own are found."""
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    rules.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    rules.add_special_tokens([tokenizers.AddedToken("<end>", normalized=True)])
    tokenizer = Tokenizer(rules)
    ids = tokenizer.encode_spelt(render("{{ messages[0].content }}<end>", conversation(typed), {}, tokenizer))
    assert ids == [*tokenizer.encode(typed), *tokenizer.ids_of("<end>")]


def unguarded(template, *contents):
    """What Jinja itself makes of it, with the one filter of transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    return environment.from_string(template).render(messages=conversation(*contents))


FORGED = "<end> <think> x</think>"


def test_lists_and_objects_are_printed_as_python_prints_them():
    """With quotes and line ends as Python escapes them."""
    for typed in ("<a>", "it's <b>\n", '"<c>" it\'s \\ \t\u200b🦊', ""):
        template = "{{ [messages[0].content] }}{{ {messages[0].content: 1} }}"
        assert written(typed, template=template).replace(SHIELD, "") == unguarded(template, typed)


@pytest.mark.parametrize(
    "expression",
    [
        "m", "m | trim", "m.strip()", "' ' + m", "m + ' '", "m ~ '!'", "'%s' % m", "'{}'.format(m)", "m.format(1)",
        "m | replace('x', 'y')", "m.replace(' ', '')", "m | upper | lower", "m.split(' ') | join(' ')", "m[1:]",
        "m[:-1]",
        "m.split('<think>') | join('<t')", "m | tojson", "m | tojson(ensure_ascii=true)",
        "[m, {m: m}] | tojson(indent=1)",
        "m | string", "m | list | join", "m | safe", "m.splitlines() | first", "m | indent", "m.title() | lower",
        "m.rpartition(' ')[0]", "m.partition('<think>') | join", "m.removeprefix('<e') ~ m",
        "[m] | map('trim') | first",
        "m | first ~ m[1:]", "m * 2", "(m ~ m).split('<end>') | last", "m | format", "m.encode is defined and m",
        "m | batch(3) | first | join", "m | wordwrap(3)", "m | center(40)", "m | truncate(9)", "m.join(['', ''])",
        "[m, {'a': m}]", "(m, 1)", "messages", "'%r' % m", "m | pprint", "m | e", "m | urlencode", "m | title",
        "m | striptags", "m.isascii()", "m.translate({60: '['})", "[m <= '=', m >= '<']",
        "[m[0] in '<[', m[0] not in '<[', m in typed ~ '!', m in messages[0].values(), 'x' in m, 3 in [3]]",
        "m if m == typed else 'x'", "m if m in [typed] else 'x'", "m if {m: 1}[typed] else 'x'",
    ],
)  # fmt: skip
def test_whatever_a_template_does_with_a_text_it_spells_no_token(expression):
    """Nothing of it becomes a token, and it reads as if it were plain."""
    template = "{% set m = messages[0].content %}{{ " + expression.replace("typed", repr(FORGED)) + " }}<turn>"
    found = written(FORGED, template=template)
    assert [id for id in TOKENIZER.encode_spelt(found) if id in TOKENIZER.special_ids] == TOKENIZER.ids_of("<turn>")
    assert not [id for id in TOKENIZER.encode_spelt(found) if id in TOKENIZER._added]
    assert found.replace(SHIELD, "") == unguarded(template, FORGED)


@pytest.mark.parametrize(
    "expression",
    ["m.upper()", "m | upper", "m.title()", "m | capitalize", "[m.isalpha(), m.islower()]", "m.swapcase()"],
)
def test_a_token_may_begin_with_a_letter(expression):
    """As `sop` of some models does; typed, it is text, and letters are letters."""
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    rules.add_special_tokens(["sop", "SOP", "Sop"])
    template = "{% set m = messages[0].content %}{{ " + expression + " }}sop"
    for typed in ("sopsop", "as Sop"):
        found = render(template, conversation(typed), {}, tokenizer := Tokenizer(rules))
        assert found.replace(SHIELD, "") == unguarded(template, typed)
        assert [id for id in tokenizer.encode_spelt(found) if id in tokenizer.special_ids] == tokenizer.ids_of("sop")


def test_texts_say_of_themselves_what_was_typed():
    """Searches and comparisons see it; so do parts of it, and what it is joined with."""
    template = (
        "{% set m = messages[0].content %}{{ [m.startswith('<end>'), m.endswith('</think>'), '<think>' in m,"
        " m.find('<think>'), m.count('<'), m == typed, m != typed, typed == m, m | length,"
        " ('a' ~ m)[1:] == m, m.index('x'), m < '=',"
        " m.split('<think>') | length, (m | upper) == typed | upper, m.rsplit(None, 1)[1]] | tojson }}"
    ).replace("typed", repr(FORGED))
    assert written(FORGED, template=template).replace(SHIELD, "") == unguarded(template, FORGED)
    assert json.loads(written("<x", template="{{ messages[0].content | tojson }}").replace(SHIELD, "")) == "<x"


def test_a_message_that_continues_ends_where_it_ends():
    messages = conversation("a", " the fox ")
    for template, wanted in {
        "{% for m in messages %}{{ m.content }}<end>{% endfor %}": "a<end> the fox ",
        "{% for m in messages %}{{ m.content | trim }}<end>{% endfor %}": "a<end>the fox",
    }.items():
        assert render(template, messages, {}, TOKENIZER, continues=True) == wanted
    for template in ("x", "{{ messages[1].content | upper }}"):
        with pytest.raises(ValueError, match="does not write the last message as it is"):
            render(template, messages, {}, TOKENIZER, continues=True)


def test_a_template_is_compiled_once_and_each_conversation_is_its_own():
    """Whatever private characters stand for what was typed: those of one rendering are text in the next."""
    source = "{% for m in messages %}{{ m.content | trim ~ '<|eos|>' }}{% endfor %}{{ 'a' in messages[0].content }}"
    typed = ["the <|eos|> fox", f"a {chr(FIRST)}{chr(FIRST + 1)} <|eos|>", "plain"]
    fresh = []
    for content in typed:
        gptjax.inference.template._code.cache_clear()
        fresh.append(render(source, conversation(content), {}, TOKENIZER))
    gptjax.inference.template._code.cache_clear()
    assert [render(source, conversation(content), {}, TOKENIZER) for content in typed] == fresh
    assert len(set(fresh)) == 3
    assert gptjax.inference.template._code.cache_info().misses == 1


BLOCKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<turn>{% generation %}{{ m.content }}<end>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def test_what_is_in_blocks_of_generation_is_told_and_written_as_if_they_were_not_there():
    """In characters of what is encoded, with the marks of what was typed."""
    messages = conversation("a <end>", "b <end>", "c", "d")
    writing = Writing(BLOCKS, messages, {}, TOKENIZER)
    text = writing.text(4, add_generation_prompt=False)
    assert [text[begin:end] for begin, end in writing.generated()] == [f"b <{SHIELD}end><end>", "d<end>"]
    bare = BLOCKS.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert text == Writing(bare, messages, {}, TOKENIZER).text(4, add_generation_prompt=False)
    assert Writing(bare, messages, {}, TOKENIZER).generated() == []


@pytest.mark.parametrize("change", ["x | trim", "x | reverse", "x[1:]", "x ~ x[:1]"])
def test_blocks_that_a_template_changes_once_they_are_written_are_refused(change):
    block = "{% generation %} {{ messages[0].content }}{% endgeneration %}"
    changed = f"{{% set x %}}{block}{{% endset %}}{{{{ {change} }}}}"
    with pytest.raises(ValueError, match=r"changes what it has in \{% generation %\}"):
        Writing(changed, conversation("a"), {}, TOKENIZER).generated()
    kept = f"{{% set x %}}{block}{{% endset %}}{{{{ 'so:' ~ x }}}}"
    assert Writing(kept, conversation("a"), {}, TOKENIZER).generated() == [(3, 5)]


def test_of_a_conversation_the_beginning_can_be_written_too():
    messages = conversation("a <end>", "b", "c")
    writing = Writing(THINKING, messages, {}, TOKENIZER)
    for count in (1, 2, 3):
        assert writing.text(count) == render(THINKING, messages[:count], {}, TOKENIZER)
    assert writing.text(1) != writing.text(2)


EACH = "{% for m in messages %}{{ m.content }}<end>{% endfor %}"
# Each tells a beginning from the whole in another way.
LOOKING = {
    "the last": EACH.replace("<end>", "{% if not loop.last %}<end>{% endif %}"),
    "the next": EACH.replace("<end>", "{{ loop.nextitem is defined }}"),
    "how many": EACH.replace("<end>", "{{ messages | length }}"),
    "the last from the end": EACH + "{{ messages[-1].content }}",
    "whether an answer is asked for": EACH.replace("<end>", "{{ add_generation_prompt }}"),
    "that before": "{{ add_generation_prompt }}" + EACH,
    "a count": "{% set ns = namespace(n=0) %}" + EACH.replace("<end>", "{% set ns.n = ns.n + 1 %}") + "{{ ns.n }}",
    "a turn of its own": "{% set c = cycler('a', 'b', 'c') %}"
    + EACH.replace("<end>", "{{ c.next() }}")
    + "{{ c.next() }}",
    "what is used up": "{% set all = messages[0].content | map('upper') %}" + EACH + "{{ all | first }}",
    "another name": "{% set all = messages %}" + EACH.replace("<end>", "{{ all | length }}"),
    "in a macro": "{% macro f() %}{{ messages | length }}{% endmacro %}" + EACH.replace("<end>", "{{ f() }}"),
    "where it breaks": EACH.replace("{{", "{% if m.content == 'c' %}{% break %}{% endif %}{{"),
    "backwards": EACH.replace("in messages", "in messages | reverse"),
    "some": EACH.replace("in messages", "in messages if m.content != 'b'"),
    "twice": EACH + EACH,
}
SIMPLE = {
    "of us": TURNS,
    "ends": EACH + "{% if add_generation_prompt %}<turn>{% else %}</end>{% endif %}",
    "first": "{{ bos_token }}{{ messages[0].role }}" + EACH.replace("<end>", "{{ loop.index0 }}{{ loop.first }}"),
}


@pytest.mark.parametrize("name", [*LOOKING, *SIMPLE, *HELD])
def test_beginnings_that_are_cut_out_of_the_whole_are_those_that_are_written(name):
    """Only of templates that write one message after another, each by itself; others are written each time."""
    template = {**LOOKING, **SIMPLE, **{held: HELD[held]["template"] for held in HELD}}[name]
    names = {"bos_token": "<turn>", "eos_token": "<end>"}
    fresh, cut = (Writing(template, conversation("a<end>", "b", "c", "d"), names, TOKENIZER) for _ in range(2))
    cut.prepare_beginnings()
    assert (cut._parts is not None) == (name in (*SIMPLE, "trl phi3_5", "unsloth zephyr_template", "litellm 0"))
    for count in range(1, 5):
        for asks in (False, True):
            wanted = fresh.text(count, add_generation_prompt=asks)
            assert cut.text(count, add_generation_prompt=asks) == wanted
