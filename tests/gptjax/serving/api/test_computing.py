"""What is computed beside the engine: one request at a time."""

import asyncio
import threading

import pytest

from gptjax.serving.api.computing import Computing


def test_who_leaves_does_not_give_the_turn_to_another_before_its_thread_has_ended():
    first_runs, go_on, order = threading.Event(), threading.Event(), []

    def slow(model, texts, progress):
        first_runs.set()
        assert go_on.wait(20)
        order.append("first")
        progress(1, 2)
        order.append("not stopped")

    def quick(model, texts, progress):
        order.append("second")
        return "found"

    async def main():
        computing = Computing()
        first = asyncio.create_task(computing.of(None, [], slow))
        await asyncio.to_thread(first_runs.wait, 20)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(first, 20)
        second = asyncio.create_task(computing.of(None, [], quick))
        await asyncio.sleep(0.2)
        assert order == []
        go_on.set()
        return await asyncio.wait_for(second, 20)

    assert asyncio.run(main()) == "found"
    assert order == ["first", "second"]
