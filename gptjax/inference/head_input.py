"""What a head of whole texts reads: the one place where a text, or two, become its token ids. Does not import JAX.

Preparation calls it for what is learnt and prediction for what is asked, so that both read the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from gptjax import arguments
from gptjax.batch import ClassHead
from gptjax.spelling import did_you_mean
from gptjax.text.stop_words import without_stop_words
from gptjax.text.tokenizer import Tokenizer

TextOrTwo = str | tuple[str, str]  # what a head is asked of


class HeadInput(NamedTuple):
    """What a head reads of a text, or of two."""

    ids: list[int]  # BOS a EOS, or BOS a EOS b EOS
    cut: bool  # whether the text was longer than that


def head_ids(tokenizer: Tokenizer, head: ClassHead, text: str, second: str | None = None) -> list[int]:
    """The ids of a text, BOS and EOS around it, or of two, BOS a EOS b EOS; at most `head.length` of them.

    In lower case and without stop words, where the head was taught so; a text of nothing but stop words stays whole. A
    text keeps its beginning; of two the longer is cut first.
    Raises ValueError for a text that is empty, or has no token, and for a second one that the head does not read, or
    lacks.
    """
    return head_inputs(tokenizer, head, [text if second is None else (text, second)])[0].ids


def head_inputs(tokenizer: Tokenizer, head: ClassHead, texts: Sequence[TextOrTwo]) -> list[HeadInput]:
    """The same of many texts, or pairs of them, on all cores. An error says which one, unless it is alone."""
    sides = []
    for number, text in enumerate(texts):
        sides += _sides(head, text, "text" if len(texts) == 1 else f"text {number}")
    ids = tokenizer.encode_batch(sides)
    each = 2 if head.two else 1
    found = [_framed(tokenizer, head, ids[place : place + each]) for place in range(0, len(ids), each)]
    for number, one in enumerate(found):
        if len(one.ids) < 3:
            raise ValueError(f"text {number}: {str(texts[number])[:40]!r} has no token in this model's vocabulary")
    return found


def head_named(heads: Sequence[ClassHead], name: str | None) -> int:
    """The number of the head of whole texts that is called so; None = the only one.

    Raises ValueError where there is none of that name, or none or several without one, or it is not of texts.
    """
    of_texts = [head.name for head in heads if head.of_texts]
    if name is None and len(of_texts) == 1:
        name = of_texts[0]
    if not of_texts:
        raise ValueError("this model has no head of whole texts; teach it one: `./launch.sh finetune MODEL --data ...`")
    if name is None:
        raise ValueError(f"head: this model has several, so name one of them: {', '.join(of_texts)}")
    if name not in of_texts:
        if any(head.name == name for head in heads):
            raise ValueError(
                f"head={name!r}: tells something of running text that is made for it, not of texts that are given it; "
                f"known: {of_texts}"
            )
        raise ValueError(f"head={name!r}: this model has no such head{did_you_mean(name, of_texts)}")
    return next(number for number, head in enumerate(heads) if head.name == name)


def fitted(head: ClassHead, T: int) -> ClassHead:
    """The same head, which reads no more of a text than a context of T holds."""
    return head if head.length is not None and head.length <= T else dataclasses.replace(head, length=T)


def sides_read(head: ClassHead, text: TextOrTwo) -> list[str]:
    """The text, or both, as the head reads them, before they become ids."""
    return _sides(head, text, "text")


def _sides(head: ClassHead, text: TextOrTwo, where: str) -> list[str]:
    """The text, or both, as the head was taught to read them. Raises ValueError as `head_ids` does."""
    if isinstance(text, str):
        if head.two:
            raise ValueError(f"{where}: head {head.name!r} reads two texts; give both, found one: {text[:40]!r}")
        given = {where: text}
    else:
        pair = list(text) if isinstance(text, tuple | list) else []
        if len(pair) != 2:
            raise ValueError(f"{where}: must be a text, or a pair (text, text), not {arguments.kind(text)}")
        if not head.two:
            raise ValueError(f"{where}: head {head.name!r} reads one text, found two; give only {str(pair[0])[:40]!r}")
        given = {f"{where}, first of two": pair[0], f"{where}, second of two": pair[1]}
    return [_written(head, one, name) for name, one in given.items()]


def _written(head: ClassHead, text: str, where: str) -> str:
    if not arguments.text(where, text).strip():
        raise ValueError(f"{where}: is empty; head {head.name!r} has nothing to read")
    if head.lowercase:
        text = text.lower()
    if head.stop_words is not None:
        kept = without_stop_words(text, head.stop_words)
        text = kept if kept.strip() else text
    return text


def _framed(tokenizer: Tokenizer, head: ClassHead, sides: Sequence[list[int]]) -> HeadInput:
    """Behind BOS, each with an EOS; nothing where a side has no token."""
    if not all(sides):
        return HeadInput([], False)
    ids, whole = [tokenizer.bos], 1 + sum(len(side) + 1 for side in sides)
    room = (whole if head.length is None else head.length) - 1 - len(sides)
    kept = _shares([len(side) for side in sides], room)
    for side, count in zip(sides, kept, strict=True):
        ids += [*side[:count], tokenizer.eos]
    return HeadInput(ids, len(ids) < whole)


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens of each are kept: of two, the longer gives up its own until both are as long."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    kept = min(first, max(room - room // 2, room - second))
    return [kept, min(second, room - kept)]
