"""Clients take turns, and none fills all the places."""

import pytest

from gptjax.serving.fair_queue import FairQueue, QueueFull


def test_clients_take_turns_however_many_one_of_them_has():
    waiting = FairQueue(8)
    for client, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)):
        waiting.put(client, item)
    assert [waiting.get() for _ in range(7)] == [1, 4, 5, 2, 6, 3, None]


def test_one_client_fills_half_of_the_places_and_another_finds_room():
    waiting = FairQueue(4)
    waiting.put("a", 1)
    waiting.put("a", 2)
    with pytest.raises(QueueFull, match="2 of your requests are waiting"):
        waiting.put("a", 3)
    waiting.put("b", 4)
    waiting.put("c", 5)
    with pytest.raises(QueueFull, match="the queue is full: 4"):
        waiting.put("d", 6)
    waiting.get()
    waiting.put("d", 6)


def test_what_leaves_the_queue_gives_its_place_back():
    waiting = FairQueue(2)
    waiting.put("a", 1)
    assert waiting.remove("a", 1)
    assert not waiting.remove("a", 1)
    waiting.put("a", 2)
    assert len(waiting) == 1
    assert waiting.get() == 2
    assert len(waiting) == 0
