"""Requests through the thread that owns the engine: answered as alone, in turn, cancelled, failed, drained, swapped."""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import threading

import jax
import pytest

from gptjax.decoding.engine import Ended, Failed, Read, Request, Said
from gptjax.decoding.sampling import Sampling
from gptjax.inference.language_model import LanguageModel
from gptjax.serving import grammar
from gptjax.serving.api.choices import Choice, pieces
from gptjax.serving.errors import ApiError
from gptjax.serving.fair_queue import QueueFull
from gptjax.serving.grammar import Children, grammar_of
from gptjax.serving.worker import Unavailable, Worker
from tests.tiny_run import random_model

ROWS = 2


def request(text="A: hello", tokens=12, **settings):
    model = random_model()
    return Request(prompt=tuple(model.encode_prompt(text)), sampling=Sampling(tokens=tokens, temperature=0, **settings))


def alone(text="A: hello", tokens=12):
    return random_model().generate(text, tokens=tokens, temperature=0, slots=64)[0][0].text


def made(**settings):
    worker = Worker(random_model(), rows=ROWS, **settings)
    worker.start()
    worker.wait()
    return worker


@pytest.fixture(scope="module")
def worker():
    found = made(queue=8)
    yield found
    run(found.drain(5))


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def heard(worker, asked, client="a"):
    """All events of a request."""
    return [event async for event in worker.events(asked, client)]


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Said))


def value(worker, name):
    """Of a metric, as Prometheus reads it."""
    lines = worker.metrics.page().decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"gptjax_{name} "))


async def until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def test_many_at_once_are_answered_as_if_each_were_alone(worker):
    texts = ["A: hello", "the quick", "A: hello there", "jumps over", "lazy dog B:"]

    async def main():
        return await asyncio.gather(
            *[heard(worker, request(text), client) for text, client in zip(texts, "aabbc", strict=True)]
        )

    for text, events in zip(texts, run(main()), strict=True):
        assert text_of(events) == alone(text)
        assert isinstance(events[0], Read)
        assert events[-1] == Ended("length")
    assert alone(texts[0]) != alone(texts[1])


def test_nothing_is_compiled_once_it_is_ready():
    """Whatever the lengths and settings, of parameters that were loaded; and a new program does count."""
    model = random_model()
    params = jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding), model.params)
    worker = Worker(LanguageModel(model.config, model.tokenizer, params), rows=3)  # of which nobody made programs
    worker.start()
    worker.wait()
    before = worker.programs
    for text, tokens in (("A", 1), ("A: hello there, quick brown fox", 30)):
        run(heard(worker, request(text, tokens, stop=("zz",), top_k=3)))
    assert value(worker, "compilations_total") == before > 0
    jax.jit(lambda x: x * 3 + before)(1.0)
    assert value(worker, "compilations_total") > before
    run(worker.drain(5))


def test_a_reader_that_leaves_frees_its_row(worker):
    """Whether it closes its answer, is cancelled while it waits, or just forgets it."""
    gone = value(worker, "client_disconnects_total")

    async def main():
        for leave in ("close", "cancel", "forget"):
            answer = worker.events(request(tokens=10_000), "a")
            assert isinstance(await anext(answer), Read)
            if leave == "close":
                await answer.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(answer)
            if leave == "cancel":
                while True:
                    reading = asyncio.create_task(anext(answer))
                    await asyncio.sleep(0)
                    if not reading.done():
                        break
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
            if leave != "forget":
                await until(lambda: worker.running == 0)
            del answer
            await until(lambda: worker.running == 0)
        return await heard(worker, request())

    assert text_of(run(main())) == alone()
    assert value(worker, "client_disconnects_total") == gone + 3


def test_beyond_the_queue_one_is_refused_at_once(worker):
    """2 rows, 8 places: of one client 4 may wait, who leaves the queue gives the place back, and all others finish."""

    async def main():
        taken = [worker.events(request(tokens=20), "a") for _ in range(4)]
        await until(lambda: worker.running == ROWS)
        taken += [worker.events(request(tokens=20), "a") for _ in range(2)]
        with pytest.raises(QueueFull, match="4 of your requests are waiting"):
            worker.events(request(), "a")
        taken.append(worker.events(request(tokens=20), "b"))
        await taken.pop(4).aclose()
        return await asyncio.gather(*[collected(answer) for answer in taken])

    async def collected(answer):
        return [event async for event in answer]

    refused = value_of_rejected(worker)
    assert {text_of(events) for events in run(main())} == {alone(tokens=20)}
    assert value_of_rejected(worker) == refused + 1


def value_of_rejected(worker):
    lines = worker.metrics.page().decode().splitlines()
    named = 'gptjax_requests_rejected_total{reason="queue_full"}'
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(named))


def test_a_request_that_cannot_be_met_fails_alone(worker):
    async def main():
        beyond = Request(prompt=(10**6,), sampling=Sampling(tokens=3))
        return await asyncio.gather(heard(worker, beyond), heard(worker, request()))

    [failed], good = run(main())
    assert isinstance(failed, Failed)
    assert "token id 1000000" in str(failed.error)
    assert text_of(good) == alone()


def test_tokens_and_ends_are_counted(worker):
    names = ("prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds_count")
    before = [value(worker, name) for name in names]
    run(heard(worker, request(tokens=7)))
    after = [value(worker, name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [len(request().prompt), 7, 1]
    assert 'gptjax_requests_total{finish_reason="length"}' in worker.metrics.page().decode()
    assert value(worker, "slots") == ROWS


def other_model():
    """Of the same shape, which says something else."""
    model = random_model()
    params = jax.tree.map(lambda leaf: -leaf, model.params)
    return LanguageModel(model.config, model.tokenizer, params)


def test_a_swapped_model_has_the_new_requests_and_the_old_one_ends_its_own(worker):
    other = other_model()
    theirs = other.generate("A: hello", tokens=40, temperature=0, slots=64)[0][0].text
    assert theirs != alone(tokens=40)

    async def main():
        old = worker.events(request(tokens=40), "a")
        await anext(old)
        await asyncio.to_thread(worker.swap, other)
        await until(lambda: worker.model is other)
        new = await heard(worker, request(tokens=40))
        return text_of([event async for event in old]), text_of(new)

    assert run(main()) == (alone(tokens=40), theirs)
    with pytest.raises(ValueError, match="another shape"):
        worker.swap(random_model("gpt2"))
    worker.swap(random_model())


def test_before_it_is_ready_nothing_is_taken():
    async def main():
        with pytest.raises(Unavailable, match="not ready"):
            Worker(random_model(), rows=1).events(request(), "a")

    run(main())


def test_draining_finishes_what_it_can_and_cuts_the_rest_with_an_error():
    async def main(tokens, seconds):
        worker = made()
        answers = [worker.events(request(tokens=tokens), "a") for _ in range(3)]
        await anext(answers[0])
        ended = asyncio.create_task(worker.drain(seconds))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="shutting down"):
            worker.events(request(), "a")
        return await ended, [[event async for event in answer][-1] for answer in answers]

    assert run(main(12, 30)) == (0, [Ended("length")] * 3)
    cut, lasts = run(main(50, 0.0))
    assert cut == 3
    assert [str(last.error) for last in lasts] == ["the server is shutting down"] * 3


def test_a_request_of_many_texts_that_has_begun_brings_all_of_them_while_draining():
    """More than are taken at once, and than may wait: to come again is no refusal. What is cut says so as a 503."""

    async def main(tokens, seconds):
        worker = made(queue=8)
        coming = pieces(worker, [Choice(request(tokens=tokens))] * 20, "a")
        await anext(coming)
        ended = asyncio.create_task(worker.drain(seconds))
        try:
            return [piece async for some in coming for piece in some]
        finally:
            await ended
            await coming.aclose()
            assert value_of_rejected(worker) == 0

    found = run(main(3, 60))
    assert sorted(piece.choice for piece in found if piece.reason == "length") == [*range(20)]
    with pytest.raises(ApiError, match="shutting down") as cut:
        run(main(50, 0.0))
    assert cut.value.status == 503


def test_texts_of_a_form_share_a_process_and_the_engine_starts_none(worker, monkeypatch):
    """One after another, whether they end or are left, without any help of the garbage collector."""
    model, threads, start = random_model(), [], Children._started
    grammar._children.cache_clear()  # other tests may have left processes that wait
    monkeypatch.setattr(
        Children, "_started", lambda self: threads.append(threading.current_thread().name) or start(self)
    )

    async def main():
        for number in range(8):
            form = await asyncio.to_thread(grammar_of, {"type": "regex", "regex": "[ab]{30}"}, model)
            answer = worker.events(dataclasses.replace(request(tokens=40), grammar=form), "a")
            async for _ in answer:
                if number % 2:
                    break
            await answer.aclose()
            await until(lambda: worker.running == 0)
            assert form._children._promised == 0

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()
    assert 1 <= len(threads) <= 2
    assert "engine" not in threads


def test_when_the_engine_dies_everybody_hears_of_it(monkeypatch, caplog):
    """Those who are answered and those who wait; later ones are refused, and so it says."""
    caplog.set_level(logging.CRITICAL + 1)
    worker = made()
    engine = worker._engines[0]

    def broken():
        raise RuntimeError("no such device")

    async def main():
        answers = [worker.events(request(tokens=40), "a") for _ in range(4)]
        await anext(answers[0])
        monkeypatch.setattr(engine, "_step", broken)
        lasts = [[event async for event in answer][-1] for answer in answers]
        with pytest.raises(Unavailable, match="has died"):
            worker.events(request(), "a")
        assert await worker.drain(5) == 0
        return lasts

    assert [str(last.error) for last in run(main())] == ["no such device"] * 4
    assert isinstance(worker.dead, RuntimeError)
    assert not worker.ready
    with pytest.raises(RuntimeError, match="no such device"):
        worker.wait()


def test_settings_that_no_engine_can_have_are_refused():
    with pytest.raises(ValueError, match="queue=0"):
        Worker(random_model(), queue=0)
