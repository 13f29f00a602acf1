"""Overlap: a held-out document is found wherever it stands in another, and nothing else is."""

import random

import numpy as np
import pytest

from data.preparation import overlap


def documents(count, seed=0, words=40):
    chance = random.Random(seed)
    return [" ".join(f"w{chance.randrange(500)}" for _ in range(words)) for _ in range(count)]


def sought(texts):
    return overlap.Sought(np.array([overlap.fingerprint(overlap.words_of(text)) for text in texts], overlap.PRINT))


def holders(texts, held_out):
    return sought(held_out).holders([(j, overlap.words_of(text)) for j, text in enumerate(texts)])


@pytest.mark.parametrize("block", [overlap.BLOCK, 1000, 1])
def test_a_document_is_found_at_any_place_of_another(monkeypatch, block):
    """At its beginning, in its middle behind a quote, at its end, or as all of it; however documents are batched."""
    monkeypatch.setattr(overlap, "BLOCK", block)
    held, other = documents(30), documents(30, seed=1)
    texts = [held[3] + other[0], f'{other[1]}"{held[4]}"{other[2]}', other[3], other[4] + " " + held[5], held[6]]
    assert holders(texts, held) == [0, 1, 3, 4]


def test_white_space_line_ends_and_byte_order_marks_do_not_hide_it():
    held = documents(3)
    texts = ["\ufeff" + held[0], held[1].replace(" ", "\r\n"), held[2].replace(" ", " \t ") + "\n", held[2][:-1]]
    assert holders(texts, held) == [0, 1, 2]


def test_a_document_that_differs_in_one_letter_is_not_it():
    """Neither at its end, nor where two documents only together hold it; the same text is."""
    held = documents(1)[0]
    assert holders([held[:-1] + "!", held[:100], held[100:], "x" + held[1:]], [held]) == []
    assert holders([held], [held]) == [0]


def test_documents_with_one_beginning_are_told_apart():
    """A beginning longer than a window, and another length or another end."""
    head = documents(1)[0]
    held = [f"{head} {tail}" for tail in documents(50, seed=1, words=3)]
    others = [f"{head} {tail}" for tail in documents(50, seed=2, words=3)]
    assert holders([*others, *held], held) == [*range(50, 100)]


def test_short_documents_are_left_alone():
    """Of a window less a byte; those of a window are looked for."""
    text = "a" * overlap.WINDOW
    assert holders([text], [text[:-1]]) == []
    assert holders([text], [text]) == [0]


def test_a_run_of_one_letter_is_dealt_with():
    assert holders(["a" * 300_000, "b" * 300_000], ["a" * 5_000]) == [0]
