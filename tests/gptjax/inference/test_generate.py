"""What generation promises. Models are random, but for those that recite."""

import copy
import dataclasses
import functools
import logging
import pickle
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gptjax
from gptjax.config import ModelConfig, save_model_config
from gptjax.decoding.drawing import LIKELIEST, Choice, adjusted, choose, narrowed
from gptjax.decoding.engine import Engine, Request, Said
from gptjax.decoding.sampling import Sampling
from gptjax.decoding.text_stream import certain
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.scoring import Row
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Transformer, head, init_params
from gptjax.runs.checkpoint import CheckpointWriter
from gptjax.sharding import make_mesh
from tests.tiny_run import LLAMA, SHAPES, bpe, characters, random_model, reciter, write_run

PROMPTS = ["the quick", "A: hello there\nB: the quick brown fox jumps", "", "曹操"]


def full_logits(model, ids, visible=0):
    """Scores after every token by one pass without a cache; the first `visible` tokens see each other.

    Padded to the context, so that a model needs one program for texts of any length.
    """
    padded = np.pad(ids, (0, model.config.T - len(ids)))
    return np.asarray(_full_logits(model.config, model.params, padded, len(ids), visible))[: len(ids)]


@functools.partial(jax.jit, static_argnums=0)
def _full_logits(config, params, tokens_T, length, visible):
    place_1T = jnp.arange(config.T)[None]
    real_1T = place_1T < length
    hidden_1TD, _ = Transformer(config).apply(
        {"params": params}, tokens_T[None], real_1T.astype(int), place_1T, real_1T & (place_1T < visible)
    )
    return logits_from(hidden_1TD, head(params), config.vocabulary)[0]


def choice(key, rows=1, V=384, **settings):
    """Settings by name, the same for all rows; without them, tokens are drawn as the model believes."""
    off = {
        "temperature": 1.0, "top_k": 10_000, "top_p": 1.0, "min_p": 0.0, "penalty": 1.0, "presence": 0.0,
        "frequency": 0.0,
    }  # fmt: skip
    bias_BV = jnp.broadcast_to(settings.pop("bias_V", np.zeros(V)), (rows, V)).astype("float32")
    arrays = {
        f"{name}_B": jnp.full(rows, value, "int32" if name == "top_k" else "float32")
        for name, value in (off | settings).items()
    }
    return Choice(jax.random.split(key, rows), **arrays, bias_BV=bias_BV, told_B=jnp.zeros(rows, bool))


def cached_greedy(model, prompt, tokens, prefix=0, context=None):
    """Greedy decoding with a cache: the tokens said after the prompt, each with the likeliest there were."""
    settings = Sampling(tokens=tokens, temperature=0)
    request = Request(prompt=tuple(prompt), sampling=settings, likeliest=LIKELIEST, prefix=prefix)
    told = []
    Engine(model, rows=1, context=context).run([request], [told.append])
    return [event.tokens[0] for event in told if isinstance(event, Said)]


def assert_full_forward_agrees(model, prompt, said, visible=0):
    """A pass without a cache over all of it gives the same scores; so greedy decoding without one, the same tokens."""
    ids = [token.id for token in said]
    full = full_logits(model, [*prompt, *ids], visible)[len(prompt) - 1 : -1]
    assert full.argmax(-1).tolist() == ids
    log_probs = np.asarray(jax.nn.log_softmax(full))
    for token, expected in zip(said, log_probs, strict=True):
        likeliest, found = zip(*token.likeliest, strict=True)
        assert likeliest[0] == token.id
        assert found[0] == token.log_prob
        np.testing.assert_allclose(found, expected[list(likeliest)], atol=1e-4, rtol=0)
        np.testing.assert_allclose(found, np.sort(expected)[::-1][:LIKELIEST], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decode_is_the_full_forward(shape):
    """Figure 6: over 200 greedy tokens, scores within 1e-4 of a pass without a cache, and the same tokens."""
    model = random_model(shape, T=256)
    prompt = model.encode_prompt("the quick brown")
    said = cached_greedy(model, prompt, 200)
    assert_full_forward_agrees(model, prompt, said)
    assert len({token.id for token in said}) > 20  # a text that moves


def test_a_row_with_room_for_fewer_tokens_says_the_same_until_it_is_full():
    """The same tokens; their scores within 1e-5, for a cache of another size is another program. Then the text ends."""
    model = random_model(T=256)
    prompt = model.encode_prompt("the quick brown")
    said = cached_greedy(model, prompt, 200)
    for context in (256, 200, 130, 64):
        shorter, expected = cached_greedy(model, prompt, 200, context=context), said[: context - len(prompt) + 1]
        assert [token.id for token in shorter] == [token.id for token in expected]
        scores, expected_scores = (
            [[token.log_prob, *(log_prob for _, log_prob in token.likeliest)] for token in text]
            for text in (shorter, expected)
        )
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5, rtol=0)


def test_generate_is_greedy_decoding_until_the_context_is_full():
    """generate at temperature 0 says what decoding says; the last token is drawn although it has no slot."""
    model = random_model()
    prompt = model.encode_prompt("the quick brown")
    [[sample]] = model.generate("the quick brown", temperature=0, tokens=500)
    ids = prompt + list(sample.ids)
    assert sample.ended == "context full"
    assert len(ids) == model.config.T + 1
    assert list(sample.ids) == full_logits(model, ids[:-1])[len(prompt) - 1 :].argmax(-1).tolist()
    assert sample.text == model.tokenizer.decode(sample.ids)


def test_prefix_mode_sees_the_whole_prompt():
    """A prefix is read in one pass in which its tokens see each other: the scores of a full forward that sees so."""
    model = random_model(T=256)
    prompt = model.encode_prompt(PROMPTS[1])
    said = cached_greedy(model, prompt, 30, prefix=len(prompt))
    assert_full_forward_agrees(model, prompt, said, visible=len(prompt))
    [[sample]] = model.generate(PROMPTS[1], temperature=0, tokens=30, prefix=True)
    assert list(sample.ids) == [token.id for token in said]
    [[causal]] = model.generate(PROMPTS[1], temperature=0, tokens=30)
    assert causal.ids != sample.ids


def test_a_conversation_sees_what_stood_before_its_first_answer_from_both_sides_and_the_rest_from_one():
    """Of a prompt of 40 to 100 tokens the first 13, in one pass; and scores of such a row are those of a full pass."""
    model = random_model(T=256)
    prompt = model.encode_prompt(PROMPTS[1])
    prompt = (prompt * 9)[:80]
    said = cached_greedy(model, prompt, 12, prefix=13)
    assert_full_forward_agrees(model, prompt, said, visible=13)
    [[sample]] = model.generate([prompt], temperature=0, tokens=12, prefix=[13])
    assert [token.id for token in said] == list(sample.ids)
    ids = [*prompt, *sample.ids]
    rows = [Row(ids[:-1], range(79, 91), ids[80:], prefix) for prefix in (13, 0, 80)]
    found = [scores.log_probs for scores in model.score(rows)]
    for visible, scores in zip((13, 0, 80), found, strict=True):
        log_probs = np.asarray(jax.nn.log_softmax(full_logits(model, ids[:-1], visible)))[79:]
        np.testing.assert_allclose(scores, log_probs[np.arange(12), ids[80:]], atol=1e-4)
    assert not np.allclose(found[0], found[1], atol=1e-2)
    assert not np.allclose(found[0], found[2], atol=1e-2)
    with pytest.raises(ValueError, match="prefix=81: must be from 0 to the prompt's 80 tokens"):
        model.generate([prompt], prefix=[81])


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_prompt_in_a_batch_gets_the_text_it_gets_alone(temperature):
    """Neither neighbours nor padding move a text; another prompt does."""
    model = random_model()
    lengths = [len(model.encode_prompt(prompt)) for prompt in PROMPTS]
    assert min(lengths) == 1 < 16 < max(lengths)  # two buckets
    together = model.generate(PROMPTS, temperature=temperature, tokens=40, samples=2)
    for prompt, samples in zip(PROMPTS, together, strict=True):
        assert model.generate(prompt, temperature=temperature, tokens=40, samples=2) == [samples]
        assert model.generate(prompt, temperature=temperature, tokens=40)[0] == samples[:1]
        assert (samples[0] == samples[1]) == (temperature == 0)
    assert len({samples[0].ids for samples in together}) == len(PROMPTS)


def test_the_same_seed_gives_the_same_text():
    model = random_model()
    texts = [model.generate("the", temperature=1, tokens=30, seed=seed)[0][0].text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_the_likeliest_token_alone_is_greedy():
    """top_k=1, or a tiny top_p, at any temperature: the greedy text; without them another."""
    model = random_model()
    greedy, *narrow, free = (
        model.generate("the", tokens=40, **settings)[0][0].ids
        for settings in (
            {"temperature": 0},
            {"temperature": 5.0, "top_k": 1, "top_p": None},
            {"temperature": 5.0, "top_p": 1e-6},
            {"temperature": 5.0, "top_p": None},
        )
    )
    assert narrow == [greedy, greedy]
    assert free != greedy


def test_choose_draws_from_the_kept_tokens_only_and_in_proportion():
    """Of probabilities 0.4 0.3 0.2 0.1: top_k=3 keeps three, top_p=0.65 the two that reach it, in a ratio of 4 to 3."""
    logits_BV = jnp.broadcast_to(jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]])), (4000, 4))

    def counts(**settings):
        drawing = choice(jax.random.key(3), 4000, V=4, **settings)
        return np.bincount(draw(logits_BV, drawing.key_B, drawing), minlength=4) / 4000

    draw = jax.jit(choose)

    np.testing.assert_allclose(counts(), [0.1, 0.4, 0.2, 0.3], atol=0.03)
    np.testing.assert_allclose(counts(top_k=3), [0, 4 / 9, 2 / 9, 3 / 9], atol=0.03)
    np.testing.assert_allclose(counts(top_p=0.65), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(counts(top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9], atol=0.03)
    np.testing.assert_allclose(counts(top_k=2, top_p=0.5), [0, 1, 0, 0], atol=0)
    hot = np.array([0.1, 0.4, 0.2, 0.3]) ** 0.5
    np.testing.assert_allclose(counts(temperature=2.0), hot / hot.sum(), atol=0.03)
    tied = choice(jax.random.key(0), 4000, V=4, top_k=1)
    equal_BV = jnp.broadcast_to(jnp.array([[1.0, 0, 1.0, -0.0]]), (4000, 4))
    share = np.bincount(draw(equal_BV, tied.key_B, tied), minlength=4) / 4000
    np.testing.assert_allclose(share, [0.5, 0, 0.5, 0], atol=0.03)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"penalty": 1.5}, [0.3034, 0.1116, 0.0249, 0.0527, 0.3034, 0.0056, 0.0869, 0.1116]),
        ({"bias_V": {0: -1.5, 7: 2}}, [0.0327, 0.0888, 0.012, 0.0255, 0.3982, 0.0027, 0.042, 0.3982]),
        ({"min_p": 0.2}, [0.2312, 0.1402, 0, 0, 0.6285, 0, 0, 0]),
        ({"temperature": 2, "min_p": 0.4}, [0.2918, 0.2272, 0, 0, 0.481, 0, 0, 0]),
        ({"top_k": 5, "top_p": 0.9, "min_p": 0.1}, [0.2131, 0.1293, 0, 0, 0.5793, 0, 0, 0.0784]),
        ({"penalty": 0.8, "temperature": 1.5, "top_p": 0.8}, [0.1772, 0.163, 0, 0, 0.5689, 0, 0, 0.091]),
        (
            {"bias_V": {0: -1.5, 7: 2}, "penalty": 1.3, "temperature": 0.7, "top_k": 6, "top_p": 0.95, "min_p": 0.05},
            [0, 0.0496, 0, 0, 0.2577, 0, 0, 0.6928],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_make_the_probabilities_that_hugging_face_makes(settings, expected):
    """Numbers of the logits processors of transformers 5.23, in its order; tokens 1 and 4 were seen."""
    logits_BV = jnp.array([[2.0, 1.5, -0.5, 0.25, 3.0, -2.0, 0.75, 1.0]])
    bias_V = np.zeros(8, np.float32)
    for id, bias in settings.get("bias_V", {}).items():
        bias_V[id] = bias
    how = choice(jax.random.key(0), V=8, **settings | {"bias_V": bias_V})
    seen_BV = jnp.isin(jnp.arange(8), jnp.array([1, 4]))[None]
    np.testing.assert_allclose(_probabilities(logits_BV, seen_BV, how)[0], expected, atol=6e-5)


@jax.jit
def _probabilities(logits_BV, seen_BV, how):
    return jax.nn.softmax(narrowed(adjusted(logits_BV, seen_BV, jnp.zeros(logits_BV.shape, int), how), how))


def test_a_penalty_finds_the_tokens_of_prompt_and_text_and_no_others():
    """A huge one: no token of a short text repeats itself or the prompt; padding and a neighbour do not count."""
    model = random_model()
    prompts = [model.encode_prompt(prompt) for prompt in PROMPTS]
    for prompt, samples in zip(
        prompts, model.generate(prompts, temperature=0, tokens=25, samples=2, repetition_penalty=1e9), strict=True
    ):
        for sample in samples:
            assert len({*prompt, *sample.ids}) == len(set(prompt)) + len(sample.ids)
        alone = model.generate([prompt], temperature=0, tokens=25, repetition_penalty=1e9)
        assert alone[0][0] == samples[0]
    [[free]] = model.generate(PROMPTS[0], temperature=0, tokens=25)
    assert len(set(free.ids)) < len(free.ids)


def test_presence_and_frequency_are_taken_off_once_and_each_time():
    """Of a token that the text has twice and one that it has not; the prompt does not count."""
    logits_BV, count_BV = jnp.zeros((1, 4)), jnp.array([[0, 2, 1, 0]])
    how = choice(jax.random.key(0), V=4, presence=0.5, frequency=0.25)
    scores_BV = adjusted(logits_BV, jnp.ones((1, 4), bool), count_BV, how)
    np.testing.assert_allclose(scores_BV, [[0, -1.0, -0.75, 0]])
    model = random_model()
    once = model.generate([5, 6, 7], temperature=0, tokens=25, presence_penalty=1e9)[0][0].ids
    assert len(set(once)) == 25
    assert {*once} & {*model.generate([5, 6, 7, *once[:9]], temperature=0, tokens=20, presence_penalty=1e9)[0][0].ids}


def test_a_bias_forbids_or_forces_a_token():
    """By its text or its id; a text that is several tokens is refused with them."""
    model = random_model()
    [[free]] = model.generate("the", temperature=0, tokens=10)
    first = free.ids[0]
    [[other]] = model.generate("the", temperature=0, tokens=10, logit_bias={first: float("-inf")})
    assert first not in other.ids
    forced = bpe().encode("the quick brown")[-1]
    [[quick]] = model.generate("the", tokens=5, logit_bias={bpe().token(forced): 1e4})
    assert quick.ids == (forced,) * 5
    with pytest.raises(ValueError, match=r"'the zebra' is no token of this vocabulary, but \d+ of them: \['t"):
        model.stream("the", logit_bias={"the zebra": 1})
    with pytest.raises(ValueError, match=f"token id 999 is beyond the vocabulary of {bpe().size}"):
        model.generate("the", logit_bias={999: 1})


def test_log_probabilities_are_those_of_a_full_forward_whatever_the_settings():
    """One for each token, the last included, before temperature, bias and penalty."""
    model = random_model()
    prompt = model.encode_prompt("the quick brown")
    [samples] = model.generate(
        [prompt], samples=2, tokens=20, temperature=1.5, top_k=50, min_p=0.01, repetition_penalty=1.3,
        logit_bias={7: 3.0},
    )  # fmt: skip
    for sample in samples:
        scores = jax.nn.log_softmax(full_logits(model, [*prompt, *sample.ids])[len(prompt) - 1 : -1])
        expected = np.take_along_axis(np.asarray(scores), np.array(sample.ids)[:, None], 1)[:, 0]
        np.testing.assert_allclose(sample.log_probs, expected, atol=1e-4)
    assert samples[0].log_probs != samples[1].log_probs


def test_a_stop_string_ends_the_text_before_it():
    """Also if it lies across tokens; no piece of a stream holds a part of it; without one the text goes on."""
    model = reciter(bpe().encode("the quick brown fox jumps"), bpe())
    assert model.generate("", tokens=5, temperature=0)[0][0].ended == "length"
    tokens = [bpe().decode([id]) for id in bpe().encode("the quick brown fox jumps")]
    stop = "own fo"
    assert not any(stop in token for token in tokens)
    [[sample]] = model.generate("", temperature=0, stop=(stop, "never"))
    pieces = list(model.stream("", temperature=0, stop=(stop, "never")))
    assert (sample.text, sample.ended) == ("the quick br", "stop")
    assert "".join(pieces) == sample.text
    assert "".join(bpe().decode(sample.ids)).startswith("the quick brown fo")
    [[unstopped]] = model.generate("", temperature=0, tokens=len(tokens), stop=("jumpsy",))
    assert (unstopped.text, unstopped.ended) == ("the quick brown fox jumps", "length")


def test_certain_holds_back_what_may_become_a_stop_string():
    assert certain("one tw", 0, ("two",)) == (4, False)
    assert certain("one ty", 0, ("two",)) == (6, False)
    assert certain("one two", 4, ("two",)) == (4, True)
    assert certain("aab", 1, ("aab", "b")) == (2, True)  # the first character has been said, so only "b" is left
    assert certain("anything", 0, ()) == (8, False)


def test_eos_ends_a_text():
    """The text before EOS is kept, what would follow is not; the prompt's own end is no EOS."""
    before, after = bpe().encode("the fox"), bpe().encode(" jumps")
    [[sample]] = reciter([*before, bpe().eos, *after], bpe()).generate("", temperature=0)
    assert (sample.text, sample.ended, sample.ids) == ("the fox", "eos", (*before, bpe().eos))
    [[longer]] = reciter([*before, *after, bpe().eos], bpe()).generate("", temperature=0)
    assert longer.text == "the fox jumps"


def test_a_stop_string_that_names_a_special_token_ends_the_text_at_that_token():
    """Which no text shows; without it, the text goes on; where it is the EOS as well, the text ends as ever."""
    before, after = bpe().encode("the fox"), bpe().encode(" jumps")
    model = reciter([*before, bpe().mask, *after, bpe().eos], bpe())
    [[sample]] = model.generate("", temperature=0, stop=("never", "<|mask|>"))
    assert (sample.text, sample.ended, sample.ids) == ("the fox", "stop", (*before, bpe().mask))
    [[longer]] = model.generate("", temperature=0, stop=("never", "<|eos|>"))
    assert (longer.text, longer.ended) == ("the fox jumps", "eos")


@pytest.mark.parametrize("tokenizer", [bpe, characters])
def test_a_stream_yields_whole_characters_and_the_batch_text(tokenizer):
    """Characters of several tokens arrive whole."""
    text = "曹操 🦊 the 龍"  # 龍 is in no vocabulary
    ids = tokenizer().encode(text)
    assert len(ids) > len(tokenizer().encode("曹操 🦊 the "))
    model = reciter([*ids, tokenizer().eos], tokenizer())
    pieces = list(model.stream("", temperature=0))
    assert "".join(pieces) == text == model.generate("", temperature=0)[0][0].text
    assert len(pieces) > 3
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_few_programs_serve_all_prompts_and_settings(caplog):
    """One that reads for short pieces and one for long ones, one that steps; more rows or more room are others."""
    config = ModelConfig(**{**LLAMA, "L": 1}, T=48, vocabulary=bpe().size)  # its own, so that nothing is compiled yet
    params = nn.unbox(jax.jit(lambda: init_params(Transformer(config), jax.random.key(0)))())
    model = LanguageModel(config, bpe(), params)

    def compiled(*arguments, **settings):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            model.generate(*arguments, **settings)
        found = re.findall(r"Finished XLA compilation of jit\((read|step)\)", caplog.text)
        return sorted(found)

    assert compiled([model.tokenizer.bos] * 3, tokens=30) == ["read", "step"]
    assert compiled([5] * 16, tokens=20, temperature=0) == []
    more = {"min_p": 0.1, "repetition_penalty": 1.2, "logit_bias": {5: -1.0}, "presence_penalty": 1}
    assert compiled([5] * 9, tokens=24, top_k=3, top_p=0.3, temperature=2.0, seed=5, stop=("a",), **more) == []
    assert compiled([5] * 17, tokens=10) == ["read"]
    assert compiled([[5] * 17, [7] * 9], tokens=10) == ["read", "read", "step"]
    assert compiled([5] * 9, tokens=5) == compiled([5] * 48, tokens=100) == []  # up to 48, the context


def test_what_cannot_be_generated_is_refused_with_the_numbers():
    model = random_model()
    with pytest.raises(ValueError, match="has 70 tokens; this model's context holds from 1 to 64"):
        model.generate([5] * 70)
    with pytest.raises(ValueError, match=f"token id 999, beyond the vocabulary of {bpe().size}"):
        model.stream([5, 999])
    assert len(model.generate([5] * 64, tokens=9)[0][0].ids) == 1
    for slots in range(39, 65):
        [[sample]] = model.generate([5] * 30, tokens=9, slots=slots, temperature=0)
        assert sample == model.generate([5] * 30, tokens=9, temperature=0)[0][0]
    for slots in (38, 65):
        with pytest.raises(ValueError, match=f"slots={slots}: must be from 39, which are needed, to the context of 64"):
            model.generate([5] * 30, tokens=9, slots=slots)
    assert model.generate([5] * 30, tokens=9, slots=64) == model.generate([5] * 30, tokens=9)
    for settings, said in {
        "tokens=0": {"tokens": 0}, "temperature=-1": {"temperature": -1}, "top_k=0": {"top_k": 0},
        "min_p=0": {"min_p": 0}, "repetition_penalty=0": {"repetition_penalty": 0}, "'a' has nan": {
            "logit_bias": {"a": float("nan")}
        }, "top_p=1.5": {"top_p": 1.5}, "stop=('',)": {"stop": ("",)}, "samples=0": {"samples": 0},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(settings)):
            model.generate("the", **said)


def test_a_loaded_run_says_what_was_saved(tmp_path):
    """The newest step by default, any by number, whatever the mesh; a broken one is refused."""
    model = random_model()
    path = write_run(tmp_path / "run", model, steps=(10, 20))
    expected = model.generate(PROMPTS, temperature=1, tokens=20, samples=2)
    loaded = gptjax.load(path)
    assert loaded.step == 20
    assert loaded.generate(PROMPTS, temperature=1, tokens=20, samples=2) == expected
    assert gptjax.load(str(path), step=10).step == 10
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    spread = gptjax.load(path, mesh=mesh)
    assert len(spread.params["embedding"].sharding.device_set) == 8
    for prompts in (["the quick", "", "曹操"], ["the"]):  # numbers that the mesh does not divide
        alone = [model.generate(prompt, temperature=0, tokens=20)[0] for prompt in prompts]
        assert spread.generate(prompts, temperature=0, tokens=20) == alone
    with pytest.raises(ValueError, match=r"no usable checkpoint of step 15; there are \[10, 20\]"):
        gptjax.load(path, step=15)
    next(file for file in (path / "checkpoints" / "20" / "params").rglob("*") if file.is_file()).unlink()
    with pytest.raises(ValueError, match=r"^step 20: params/.* is missing"):
        gptjax.load(path, step=20)
    with pytest.warns(UserWarning, match=r"^not used: step 20: params/.* is missing$"):
        assert gptjax.load(path).step == 10
    assert gptjax.load(path, step=10).step == 10


def test_the_moving_average_is_loaded_where_there_is_one(tmp_path):
    """In place of the weights of the step; a run that kept none says how to get one."""
    model = random_model()
    path = write_run(tmp_path / "run", model)
    writer = CheckpointWriter(path, keep=9)
    halved = jax.tree.map(lambda leaf: leaf / 2, model.params)
    writer.save(20, {"params": model.params, "training": {"step": np.int32(20)}, "ema": halved}, {})
    writer.close()
    for weights, wanted in (("trained", model.params), ("ema", halved)):
        jax.tree.map(np.testing.assert_array_equal, gptjax.load(path, weights=weights).params, wanted)
    with pytest.raises(ValueError, match=r"step 10 has no ema; a run started with --optimizer\.ema 0\.999 keeps one"):
        gptjax.load(path, step=10, weights="ema")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    """With the place and their number."""
    model = random_model()
    params = dict(model.params, embedding=model.params["embedding"].at[3, 5:7].set(jnp.nan))
    path = write_run(tmp_path / "run", LanguageModel(model.config, model.tokenizer, params))
    with pytest.raises(ValueError, match=r"^step 10: params/embedding has 2 values that are NaN or infinite"):
        gptjax.load(path)


def test_files_of_two_runs_are_refused(tmp_path):
    model = random_model()
    path = write_run(tmp_path / "first", model, steps=())
    with pytest.raises(ValueError, match="no usable checkpoint"):
        gptjax.load(path)
    with pytest.raises(ValueError, match=r"no such run; did you mean 'first'\?"):
        gptjax.load(tmp_path / "frist")
    with pytest.raises(ValueError, match=r"did you mean '.*/first'\?"):
        gptjax.load(tmp_path)
    characters().save(path / "tokenizer.json")
    with pytest.raises(ValueError, match=f"{characters().size} tokens, model.json says vocabulary={bpe().size}"):
        gptjax.load(path)
    (path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        gptjax.load(path)
    save_model_config(model.config, path / "model.json")


def test_a_training_loop_can_sample_what_it_holds():
    """A model made of parameters says what the one it came from says."""
    model = random_model()
    again = LanguageModel(model.config, model.tokenizer, model.params)
    assert again.generate("the", tokens=10) == model.generate("the", tokens=10)


def test_a_tied_table_is_one_leaf_and_stays_one(tmp_path):
    """Trap 28: saved and loaded it is still the table that both embeds and scores; an untied model has two."""
    tied = ModelConfig(**LLAMA, T=16, vocabulary=bpe().size)
    params = nn.unbox(jax.jit(lambda: init_params(Transformer(tied), jax.random.key(0)))())
    loaded = gptjax.load(write_run(tmp_path / "run", LanguageModel(tied, bpe(), params)))
    assert "head" not in loaded.params
    assert "head" in random_model().params
    texts = [[1, 5, 6, 7]]
    np.testing.assert_array_equal(loaded.log_probs(texts)[0], LanguageModel(tied, bpe(), params).log_probs(texts)[0])


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_or_pickled_model_says_the_same(travel):
    """As notebooks and data-loader workers have it: text, config, tokenizer, dtype and step; its arrays are its own."""
    model = random_model()
    generation_config = dataclasses.replace(model.generation_config, begins_with_bos=False)
    half = LanguageModel(
        model.config, model.tokenizer, model.params, generation_config=generation_config, dtype="bfloat16"
    )
    half.step = 7
    for one in (model, half):
        again = travel(one)
        assert again.generate("the", tokens=9) == one.generate("the", tokens=9)
        assert (again.generation_config, again.config, again.step) == (one.generation_config, one.config, one.step)
        assert again.tokenizer.fingerprint == one.tokenizer.fingerprint
        assert again.tokenizer.encode("<|eos|>") == one.tokenizer.encode("<|eos|>")
        assert again.params["embedding"] is not one.params["embedding"]
    assert model.generate("the", tokens=9) != half.generate("the", tokens=9)


def test_an_empty_prompt_begins_a_text_also_where_no_bos_stands_in_front():
    """With the BOS, as Hugging Face begins one; another prompt gets none."""
    model = random_model()
    generation_config = dataclasses.replace(model.generation_config, begins_with_bos=False)
    other = LanguageModel(model.config, model.tokenizer, model.params, generation_config=generation_config)
    assert other.generate("", tokens=9) == model.generate("", tokens=9)
    assert other.encode_prompt("the") == model.encode_prompt("the")[1:]
    with pytest.raises(ValueError, match="a prompt has 0 tokens"):
        other.generate([[]])


def test_help_shows_what_a_model_can_do():
    """Of the package, of load and of the class: each way to use a model, with an example."""
    inner = ("bias", "decoding", "encode_prompt", "on_mesh")
    calls = [name for name in vars(LanguageModel) if not name.startswith("_") and name not in inner]
    assert {"generate", "stream", "score", "perplexity", "loglikelihood"} <= {*calls}
    for thing in (gptjax, gptjax.load, LanguageModel):
        shown = pydoc.render_doc(thing, renderer=pydoc.plaintext)
        assert [name for name in calls if name not in shown] == []
        assert ">>> model.generate(" in shown
    assert gptjax.LanguageModel is LanguageModel
    assert {"LanguageModel", "Sample", "load"} <= {*dir(gptjax)}
    with pytest.raises(AttributeError, match="no attribute 'Language'"):
        gptjax.Language  # noqa: B018
