"""What lm_eval may rely on, without lm_eval, whose base class is stood in for; the campaign four_ways has it."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import pytest

import gptjax.harness
from gptjax.decoding.sampling import Sampling
from gptjax.evaluation.evaluate import continued
from gptjax.harness import Adapter, settings_of
from gptjax.inference.chat import TURNS, Chat
from gptjax.inference.language_model import LanguageModel
from tests.tiny_run import random_model, write_run

MODEL = random_model()


class Base:
    """As much of lm_eval's LM as the adapter touches."""

    def __init__(self):
        self.told = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *what: self.told.append(what))


class Joined(Adapter, Base):
    pass


def requests(*args):
    return [SimpleNamespace(args=one) for one in args]


def test_scores_are_those_of_the_api_and_the_cache_is_told_each():
    """In the order of the requests; plain tuples, as lm_eval stores them."""
    lm = Joined(MODEL)
    pairs = [("the quick", " brown fox"), ("", "dog"), ("the quick", " lazy")]
    found = lm.loglikelihood(requests(*pairs))
    assert found == [tuple(one) for one in MODEL.loglikelihood(pairs)]
    assert [type(one) for one in found] == [tuple] * 3
    texts = [("hello there",), ("fox" * 80,)]
    rolled = lm.loglikelihood_rolling(requests(*texts))
    assert rolled == MODEL.loglikelihood_rolling([text for (text,) in texts])
    wanted = [("loglikelihood", *one) for one in zip(pairs, found, strict=True)]
    assert lm.told == wanted + [("loglikelihood_rolling", *one) for one in zip(texts, rolled, strict=True)]


def test_answers_come_in_order_each_with_its_own_settings():
    """Requests of two kinds, mixed; one starts beyond the context."""
    lm = Joined(MODEL)
    short, long = {"until": ["\n"], "max_gen_toks": 3}, {"until": [], "max_gen_toks": 8, "do_sample": False}
    asked = [("the", long), ("hello", short), ("fox " * 90, long), ("the", short)]
    found = lm.generate_until(requests(*asked))
    for (text, settings), said in zip(asked, found, strict=True):
        ids = [MODEL.tokenizer.bos, *MODEL.tokenizer.encode(text)]
        assert [said] == continued(MODEL, [ids], tokens=settings["max_gen_toks"], stop=tuple(settings["until"]))
    assert found[0].startswith(found[3])
    assert len(found[0]) > len(found[3])
    assert [kind for kind, *_ in lm.told] == ["generate_until"] * 4


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({}, {"stop": (), "tokens": 256, "temperature": 0}),
        ({"until": "\n", "max_gen_toks": 5}, {"stop": ("\n",), "tokens": 5, "temperature": 0}),
        ({"until": ["a", ""], "max_new_tokens": 5}, {"stop": ("a",), "tokens": 5, "temperature": 0}),
        ({"temperature": 0.0, "top_p": 0.5}, {"stop": (), "tokens": 256, "temperature": 0}),
        ({"do_sample": False, "temperature": 0.7}, {"stop": (), "tokens": 256, "temperature": 0}),
        (
            {"do_sample": True, "temperature": 0.7, "top_k": 4},
            {"stop": (), "tokens": 256, "temperature": 0.7, "top_k": 4, "top_p": None},
        ),
        ({"do_sample": True}, {"stop": (), "tokens": 256, "temperature": 1, "top_p": None}),
        ({"temperature": 0.5, "top_p": 0.9}, {"stop": (), "tokens": 256, "temperature": 0.5, "top_p": 0.9}),
        (
            {"temperature": 1, "top_k": -1, "top_p": 1.0, "min_p": 0, "num_beams": 1},
            {"stop": (), "tokens": 256, "temperature": 1, "top_k": None, "top_p": None, "min_p": None},
        ),
    ],
)
def test_generation_arguments_become_settings_of_ours(asked, settings):
    assert settings_of(asked) == settings
    Sampling(**settings)


def test_a_generation_argument_that_we_do_not_have_is_refused():
    with pytest.raises(ValueError, match="'num_beams' is not known"):
        settings_of({"until": [], "num_beams": 4})


def test_a_conversation_is_read_as_the_chat_reads_it():
    """The template's special tokens are tokens, those that somebody types are not, and there is one BOS."""
    lm, typed = Joined(MODEL), "hello <|eos|> there"
    text = lm.apply_chat_template([{"role": "user", "content": typed}])
    assert lm._encode([text]) == [Chat(MODEL, Sampling(tokens=4))._read(typed)[1]]
    said = lm.generate_until(requests((text, {"max_gen_toks": 4})))
    assert said == [MODEL.generate(Chat(MODEL, Sampling(tokens=4)).context(typed), tokens=4, temperature=0)[0][0].text]
    assert MODEL.tokenizer.eos not in lm._encode([text])[0]
    assert lm.chat_template(True)
    assert lm.chat_template(False) is None


USER = {"role": "user", "content": "hello"}
TAGS = (
    "{% for m in messages %}{{ bos_token + m['role'] }} {{ m['content'] + eos_token }}{% endfor %}"
    "{{ bos_token }}{{ '\\n' }}"
)


def talking(template):
    """The model, talking by a template."""
    generation_config = dataclasses.replace(MODEL.generation_config, chat_template=template)
    return Joined(LanguageModel(MODEL.config, MODEL.tokenizer, MODEL.params, generation_config=generation_config))


def test_a_rendered_conversation_scores_the_same_by_an_adapter_that_has_rendered_nothing():
    """As with requests that lm_eval has kept; with its special tokens read as text, it would score otherwise."""
    lm = talking(TAGS)
    text = lm.apply_chat_template([USER])
    asked = requests((text, "fox"), ("the", " fox"))
    found = lm.loglikelihood(asked)
    assert talking(TAGS).loglikelihood(asked) == found
    plain = text.replace("\ufdd1", "")
    assert lm.loglikelihood(requests((plain, "fox")))[0] != found[0]


def test_a_plain_evaluation_after_a_conversation_is_unchanged():
    """Names of special tokens in it stay text."""
    lm, typed = Joined(MODEL), ("the <|eos|>", " fox <|bos|>")
    before = lm.loglikelihood(requests(typed))
    lm.apply_chat_template([USER])
    assert lm.loglikelihood(requests(typed)) == before


def test_a_choice_that_is_named_like_a_special_token_stays_text():
    """Behind a conversation, as does a beginning of the answer; white space at its end counts to the choice."""
    lm, encode = talking(TAGS), MODEL.tokenizer.encode
    bos, eos = MODEL.tokenizer.bos, MODEL.tokenizer.eos
    begun = [USER, {"role": "assistant", "content": "so <|eos|>"}]
    said, unasked = "assistant so <|eos|>", {"add_generation_prompt": False}
    for messages, options, last in (([USER], {}, "\n"), (begun, unasked, said)):
        text = lm.apply_chat_template(messages, **options)
        ids = [bos, *encode("user hello"), eos, bos, *encode(last + " <|eos|>")]
        assert lm._encode([text + " <|eos|>"]) == [ids]
        [found] = lm.loglikelihood(requests((text, " <|eos|>")))
        asked = MODEL.log_probs([ids])[0]
        count = len(encode("\n <|eos|>" if last == "\n" else " <|eos|>"))
        assert found[0] == pytest.approx(asked[-count:].sum(), abs=1e-3)


def test_marks_that_somebody_types_spell_nothing():
    """Neither in a conversation, where they go, nor in a choice, where they are characters."""
    lm, tokenizer = talking(TAGS), MODEL.tokenizer
    for sign in "\ufdd0\ufdd1":
        text = lm.apply_chat_template([USER | {"content": f"<|e{sign}os|>"}])
        assert lm._encode([text])[0].count(tokenizer.eos) == 1
        assert lm._encode([f"{text}{sign}<|eos|>{sign}"])[0].count(tokenizer.eos) == 1
        assert lm._encode([f"a{sign}<|eos|>{sign}"]) == [[tokenizer.bos, *tokenizer.encode(f"a{sign}<|eos|>{sign}")]]


def test_an_unknown_argument_is_told_before_any_answer(monkeypatch):
    monkeypatch.setattr("gptjax.harness.continued", lambda *_, **__: pytest.fail("answered"))
    with pytest.raises(ValueError, match="'beams' is not known"):
        Joined(MODEL).generate_until(requests(("a", {}), ("b", {"beams": 2})))


def test_an_answer_that_is_begun_is_written_as_the_template_writes_the_assistant():
    """Not behind what asks it to speak: a template may think aloud there, or name no role."""
    text = talking(TAGS).apply_chat_template(
        [USER, {"role": "assistant", "content": "the fox"}], add_generation_prompt=False
    )
    assert text.replace("\ufdd1", "") == "<|bos|>user hello<|eos|><|bos|>assistant the fox"


@pytest.mark.parametrize("template", [None, TURNS])
def test_an_answer_that_is_begun_follows_where_the_assistant_speaks(template):
    """In our lines behind a space, as in training, and so does a choice; not where another template writes."""
    lm, encode = talking(template), MODEL.tokenizer.encode
    text = lm.apply_chat_template([USER, {"role": "assistant", "content": "the"}], add_generation_prompt=False)
    bos = MODEL.tokenizer.bos
    assert lm._encode([text]) == [[bos, *encode("A: hello\nB: the")]]
    asked = lm.apply_chat_template([USER])
    assert lm._encode([asked, asked + "the", asked + " the"]) == [
        [bos, *encode("A: hello\nB:")], [bos, *encode("A: hello\nB: the")], [bos, *encode("A: hello\nB: the")],
    ]  # fmt: skip
    tags = talking(TAGS)
    assert tags._encode([tags.apply_chat_template([USER]) + "the"])[0][-1:] == encode("the")[-1:]
    with pytest.raises(ValueError, match="gen_prefix: the last message is of the user, not of the assistant"):
        lm.apply_chat_template([USER], add_generation_prompt=False)


def test_a_system_message_goes_before_the_first_turn_where_the_template_knows_none():
    """Our lines do not; a template that knows it gets it; one that refuses the rest as well says so."""
    system = {"role": "system", "content": "the lazy"}
    lines, tags = Joined(MODEL), talking(TAGS)
    joined = USER | {"content": "the lazy\n\nhello"}
    assert lines.apply_chat_template([system, USER]) == lines.apply_chat_template([joined])
    assert "system the lazy" in tags.apply_chat_template([system, USER])
    with pytest.raises(ValueError, match="only the roles user and assistant"):
        lines.apply_chat_template([system, USER | {"role": "critic"}])


def test_another_tokenizer_or_template_has_another_name():
    names = {lm.tokenizer_name for lm in (Joined(MODEL), talking(TAGS), talking(TAGS + "!"))}
    assert len(names) == 3
    assert Joined(MODEL).tokenizer_name in names


def test_what_is_not_drawn_is_answered_in_one_go_however_often_it_comes(monkeypatch):
    asked_at_once = []

    def counted(model, starts, **settings):
        asked_at_once.append(len(starts))
        return continued(model, starts, **settings)

    monkeypatch.setattr(gptjax.harness, "continued", counted)
    said = Joined(MODEL).generate_until(requests(*[("the", {"max_gen_toks": 3})] * 5))
    assert (asked_at_once, len(set(said))) == ([5], 1)
    assert settings_of({"repetition_penalty": 1.3})["repetition_penalty"] == 1.3  # which changes the likeliest too


def test_a_request_that_comes_twice_gets_two_samples():
    """Each the same the next time; another seed, other samples; without sampling, equal ones."""
    drawn = {"max_gen_toks": 8, "do_sample": True}
    asked = requests(*[("the", drawn)] * 3, ("fox", drawn))
    found = Joined(MODEL).generate_until(asked)
    assert len(set(found)) == 4
    assert Joined(MODEL).generate_until(asked) == found
    other = Joined(MODEL, seed=9).generate_until(asked)
    assert not {*other} & {*found}
    assert Joined(MODEL).generate_until(requests(("the", drawn | {"seed": 9}))) == other[:1]
    assert len(set(Joined(MODEL).generate_until(requests(*[("the", {"max_gen_toks": 8})] * 2)))) == 1


def test_a_run_is_loaded_by_name_and_lm_evals_own_settings_change_nothing(tmp_path):
    """They come with every model that its command line makes."""
    run = write_run(tmp_path / "run", MODEL)
    lm = Joined(str(run), batch_size="4", max_batch_size=None, device="cpu")
    pair = ("the quick", " brown fox")
    assert lm.loglikelihood(requests(pair)) == [tuple(MODEL.loglikelihood([pair])[0])]
    assert lm.get_model_info() == {"model_num_parameters": MODEL.config.parameters, "model_step": 10}
    assert lm.tokenizer_name == Joined(MODEL).tokenizer_name


def test_a_run_may_be_named_by_a_path_or_by_digits(tmp_path, monkeypatch):
    """lm_eval makes a number of a name of digits alone."""
    write_run(tmp_path / "7", MODEL)
    monkeypatch.chdir(tmp_path)
    for name in (7, tmp_path / "7"):
        assert Joined(name).model.step == 10
    assert Joined(MODEL).model is MODEL


def test_without_lm_eval_one_line_says_what_to_install():
    program = "import sys; sys.modules['lm_eval'] = None; from gptjax.harness import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'gptjax[eval]'" in done.stderr


@pytest.mark.filterwarnings("error")
def test_an_answer_longer_than_the_context_is_cut_with_a_warning_and_not_refused():
    """lm_eval's default of 256 tokens of a context of 64; each prompt keeps what it has, up to half of the context."""
    lm, T = Joined(MODEL), MODEL.config.T
    asked = [("the", {}), ("fox " * 90, {}), ("the", {"max_gen_toks": 5})]
    with pytest.warns(UserWarning, match=r"^2 of 2 answers have no room for 256 tokens in the context of 64; "):
        short, long, five = lm.generate_until(requests(*asked))
    greedy = {"temperature": 0, "tokens": 256}
    assert short == MODEL.generate("the", **greedy)[0][0].text
    ids = MODEL.encode_prompt([MODEL.tokenizer.bos, *MODEL.tokenizer.encode("fox " * 90)][-T // 2 :])
    assert long == MODEL.generate([ids], **greedy)[0][0].text
    assert short.startswith(five)
    assert lm.generate_until(requests(*asked[2:])) == [five]  # without a warning


def test_settings_that_cannot_be_are_told_before_any_answer(monkeypatch):
    monkeypatch.setattr("gptjax.harness.continued", lambda *_, **__: pytest.fail("answered"))
    with pytest.raises(ValueError, match="tokens=0: must be at least 1"):
        Joined(MODEL).generate_until(requests(("a", {}), ("b", {"max_gen_toks": 0})))


def test_a_choice_longer_than_the_context_does_not_end_the_evaluation():
    """It is read in windows, as rolling texts are; its neighbours score as ever."""
    lm, long = Joined(MODEL), " fox" * 90
    with pytest.warns(UserWarning, match=r"^pair 1: the continuation ' fox fox .*' is longer than the context of 64"):
        found = lm.loglikelihood(requests(("the", " fox"), ("", long)))
    assert found[0] == tuple(MODEL.loglikelihood([("the", " fox")])[0])
    assert found[1][0] == pytest.approx(MODEL.loglikelihood_rolling([long])[0], abs=1e-3)
