"""The engine: every text is what it is alone, whoever else is served."""

import logging

import jax
import numpy as np
import pytest

from gptjax.decoding.engine import PIECE, Ended, Engine, Failed, Read, Request, Said
from gptjax.decoding.sampling import Sampling
from gptjax.sharding import make_mesh
from tests.tiny_run import random_model

GREEDY = {"temperature": 0}
LONG = tuple(7 + place % 200 for place in range(150))


@pytest.fixture(scope="module")
def model():
    return random_model(T=256)


def request(prompt, tokens=12, likeliest=0, sample=0, echo=False, grammar=None, **settings):
    sampling = Sampling(tokens=tokens, **settings)
    return Request(
        prompt=tuple(prompt), sampling=sampling, likeliest=likeliest, sample=sample, echo=echo, grammar=grammar
    )


def told(engine, *requests):
    """The events of each, until all are over."""
    events = [[] for _ in requests]
    engine.run(requests, [one.append for one in events])
    return events


def tokens(events):
    return [token for event in events if isinstance(event, Said) for token in event.tokens]


@pytest.mark.parametrize("settings", [GREEDY, {"temperature": 1.2, "seed": 3}], ids=["greedy", "sampled"])
def test_a_text_is_the_same_to_the_last_bit_whoever_else_is_served(model, settings):
    """Alone, in whatever row, among others that come and go, with its beginning read before or not; another request is
    told other numbers."""
    wanted = request(LONG[:90], tokens=60, likeliest=5, **settings)
    [alone] = told(Engine(model, rows=4), wanted)
    others = [request(LONG[n : 3 * n + 5], tokens=5 + n, temperature=1, seed=n) for n in range(1, 30)]
    engine = Engine(model, rows=4)
    found = told(engine, *others[:11], wanted, *others[11:])
    [again] = told(engine, wanted)
    [cached, other] = told(engine, wanted, request(LONG[:90], tokens=60, likeliest=5, **settings | {"seed": 9}))
    assert tokens(found[11]) == tokens(again) == tokens(cached) == tokens(alone)
    assert (again[0], cached[0], alone[0]) == (Read(0), Read(PIECE), Read(0))
    assert len({token.log_prob for token in tokens(alone)}) > 30
    assert tokens(found[12]) != tokens(alone)
    assert (tokens(other) == tokens(alone)) == ("seed" not in settings)


def test_a_beginning_that_was_read_is_not_read_again_but_copied_or_gone_on_from(model):
    """In whole pieces, and never the last token; also while the text that had it is still being written."""
    engine = Engine(model, rows=4)
    first, second = [], []
    engine.submit(request(LONG, tokens=40, **GREEDY), first.append)
    for _ in range(5):
        engine.turn()
    engine.submit(request([*LONG[:140], 3, 4], tokens=5, **GREEDY), second.append)
    while engine.turn():
        pass
    assert second[0] == Read(2 * PIECE)
    assert not isinstance(first[-2], Ended)
    [alone] = told(Engine(model, rows=4), request([*LONG[:140], 3, 4], tokens=5, **GREEDY))
    assert tokens(second) == tokens(alone)
    [whole, other] = told(engine, request(LONG[: 2 * PIECE], tokens=1), request((5, *LONG), tokens=1))
    assert whole[0] == Read(PIECE)
    assert other[0] == Read(0)


def test_a_long_prompt_delays_nobody_by_more_than_one_piece(model):
    """While it is read, every turn brings another text one token further."""
    engine, short, long = Engine(model, rows=4), [], []
    engine.submit(request([5, 6], tokens=50, **GREEDY), short.append)
    engine.turn()
    engine.submit(request(LONG, tokens=5, **GREEDY), long.append)
    said = []
    while not long:
        engine.turn()
        said.append(len(tokens(short)))
    assert np.diff(said).tolist() == [1] * (len(said) - 1)
    assert len(said) == -(-len(LONG) // PIECE)


def test_a_short_prompt_need_not_wait_for_a_long_one_that_came_first(model):
    """They take turns to be read, a piece each."""
    engine, long, short = Engine(model, rows=4), [], []
    engine.submit(request(LONG, tokens=5, **GREEDY), long.append)
    engine.submit(request([5, 6], tokens=5, **GREEDY), short.append)
    engine.turn()
    engine.turn()
    assert short
    assert not long


def test_a_context_beyond_the_model_is_refused(model):
    with pytest.raises(ValueError, match="context=257: this model can read from 1 to 256 tokens"):
        Engine(model, rows=1, context=257)


def test_a_token_is_told_in_the_turn_in_which_it_is_drawn(model):
    engine, events = Engine(model, rows=4), []
    engine.submit(request([5], tokens=3, **GREEDY), events.append)
    engine.turn()  # reads the prompt, which gives the first token, and takes a step
    assert [type(event) for event in events] == [Read, Said, Said]
    engine.turn()
    assert events[-1] == Ended("length")
    assert not engine.turn()


def test_a_cancelled_request_leaves_its_row_at_once(model):
    """In the middle of its prompt, of its text, and while it waits; who waits behind it gets the row."""
    engine = Engine(model, rows=1)
    logs = [[] for _ in range(4)]
    tickets = [engine.submit(request(LONG, tokens=50, **GREEDY), log.append) for log in logs]
    engine.turn()
    assert (engine.running, engine.waiting) == (1, 3)
    engine.cancel(tickets[0])
    engine.cancel(tickets[2])
    engine.turn()
    assert logs[0] == logs[2] == [Ended("cancelled")]
    while not logs[1]:
        engine.turn()
    engine.cancel(tickets[1])
    while engine.turn():
        pass
    assert logs[1][-1] == Ended("cancelled")
    assert len(tokens(logs[1])) < 5
    assert len(tokens(logs[3])) == 50
    assert (engine.running, engine.waiting) == (0, 0)


def test_the_prompts_own_tokens_are_scored(model):
    """As `log_probs` does; the first has none; the likeliest are told too."""
    [[read, *_]] = told(Engine(model, rows=4), request(LONG, echo=True, likeliest=2))
    [expected] = model.log_probs([LONG])
    assert read.scores[0] is None
    assert [token.id for token in read.scores[1:]] == list(LONG[1:])
    np.testing.assert_allclose([token.log_prob for token in read.scores[1:]], expected, atol=1e-4)
    assert all(len(token.likeliest) == 2 for token in read.scores[1:])
    assert any(token.likeliest[0][0] == token.id or token.log_prob < token.likeliest[0][1] for token in read.scores[1:])


class Only:
    """A grammar: these ids, one after another."""

    def __init__(self, ids):
        self.left, self.ended = list(ids), False

    def allowed(self):
        words = np.zeros(12, np.uint32)
        words[self.left[0] // 32] = np.uint32(1) << np.uint32(self.left[0] % 32)
        return words.view(np.int32)

    def take(self, id):
        assert id == self.left.pop(0)
        self.ended = not self.left


def test_a_grammar_says_what_may_be_drawn_and_when_the_text_is_over(model):
    """In its own row alone."""
    free, bound = told(Engine(model, rows=4), request([5, 6]), request([5, 6], grammar=Only([31, 32, 200])))
    assert [token.id for token in tokens(bound)] == [31, 32, 200]
    assert bound[-1] == Ended("stop")
    assert tokens(free) == tokens(told(Engine(model, rows=4), request([5, 6]))[0])


def test_a_grammar_that_fails_frees_its_row(model):
    """Whether at its first word or later; the others go on."""

    class Failing(Only):
        def allowed(self):
            if not self.left:
                raise ValueError("no such form")
            return super().allowed()

        def take(self, id):
            self.left.pop(0)

    engine = Engine(model, rows=4)
    requests = [request([5, 6], grammar=Failing(ids)) for ids in ([], [31], [], [40])] + [request([5, 6])] * 4
    found = told(engine, *requests)
    assert [len(tokens(events)) for events in found] == [0, 1, 0, 1, 12, 12, 12, 12]
    assert all(str(events[-1].error) == "no such form" for events in found[:4])
    assert (engine.running, engine.waiting) == (0, 0)


def test_who_cannot_listen_ends_its_own_text_and_no_other(model):
    """The engine goes on; a request that does not fit is refused before it waits."""
    heard = []

    def deaf(event):
        heard.append(event)
        if isinstance(event, Said) and len(heard) == 4:
            raise OSError("gone")

    engine, other = Engine(model, rows=4), []
    engine.run([request([5], tokens=9), request([6], tokens=9)], [deaf, other.append])
    assert isinstance(heard[-1], Failed)
    assert str(heard[-1].error) == "gone"
    assert len(tokens(other)) == 9
    for bad, message in [
        (request([5] * 300), "has 300 tokens"),
        (request([5], likeliest=21), "likeliest=21: must be from 0 to 20"),
        (request([5], logit_bias={999: 1}), "token id 999 is beyond"),
    ]:
        with pytest.raises(ValueError, match=message):
            engine.submit(bad, other.append)
    assert not engine.turn()


@pytest.mark.slow
def test_nothing_compiles_after_the_warm_up(caplog):
    """Whatever is asked for; before it, a first request does."""
    engine = Engine(random_model("llama", T=200), rows=3)

    def compiled(run):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            run()
        return caplog.text.count("Finished XLA compilation")

    assert compiled(engine.warm_up) > 3
    asked = [
        request(LONG, likeliest=3), request([5]), request(LONG[:100], echo=True), request(LONG, tokens=90),
        request([5, 6], temperature=1, top_k=4, presence_penalty=1, logit_bias={3: 2.0}),
        request(LONG, grammar=Only([4])),
    ]  # fmt: skip
    assert compiled(lambda: told(engine, *asked)) == 0


@pytest.mark.slow
def test_rows_on_a_mesh_say_what_rows_on_one_device_say(model):
    """With heads and vocabulary over two devices and rows over two, greedy; the state stays split."""
    mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    params = jax.tree.map(np.asarray, model.params)
    spread = type(model)(model.config, model.tokenizer, params, mesh=mesh)
    engine = Engine(spread, rows=3)
    assert engine.rows == 4
    requests = [request(LONG[:70], **GREEDY), request([5, 6], **GREEDY), request(LONG[:64], likeliest=2, **GREEDY)]
    found, expected = told(engine, *requests), told(Engine(model, rows=4), *requests)
    for one, other in zip(found, expected, strict=True):
        assert [token.id for token in tokens(one)] == [token.id for token in tokens(other)]
    assert "tensor" in str(engine._state.cache.k_LBKSH[0].sharding.spec)
