"""Augmentation: training texts that are read each time a little differently. Held-out text never is.

Nothing but arithmetic on the pieces' keys decides what changes, so a row is the same on any host and from any start,
and another one in the next epoch. Synonyms, a fourth change of Wei and Zou, need a thesaurus and are not to be had:
what is inserted is a word of the same text.

Source: Wei and Zou 2019, "EDA: easy data augmentation techniques", arXiv:1901.11196, section 2 (swap, insert, delete);
Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods", section 3.2 (dropout of tokens); Belinkov and
Bisk 2018, arXiv:1711.02173, section 3.2 (noise on characters). Neftune: gptjax/nn/embedding_noise.py.
Axes: R rows  P pieces  I tokens  W words  M stretches, which tile the tokens  V vocabulary  K variants of a token.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.preparation.token_flags import WORD_START
from data.tasks.misspelling import VARIANTS, begins_chinese, begins_with_space, is_bare, letters, misspellings
from data.tasks.task import Task, Text, ranks
from data.token_store import runs
from gptjax.text.tokenizer import Tokenizer

LETTERS_A_TOKEN = 4  # or so; a token with a wrong letter becomes two
SALT = 1000  # of the first change's chance; each has ten, and tasks have those below


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """How training texts are changed each time that they are read: what is only read, never what is learned. Each share
    is of what may change, and 0 is off."""

    swap: float = 0.0  # share of the words that change places with another word of the text
    insert: float = 0.0  # share of the words that another word of the text is put in front of, where the row has room
    delete: float = 0.0  # share of the words that are left out
    characters: float = 0.0  # share of the letters that are mistyped: two swapped, one doubled, left out, another one
    token_dropout: float = 0.0  # share of the tokens that are left out
    token_mask: float = 0.0  # share of the tokens that are hidden by the mask
    embedding_noise: float = 0.0  # NEFTune's alpha, 5 to 15: noise of up to alpha / sqrt(length x width) on embeddings

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, most = getattr(self, field.name), math.inf if field.name == "embedding_noise" else 1.0
            if not 0 <= value < most:
                wanted = "0 or more" if most == math.inf else "at least 0 and below 1; 0.1 is usual"
                raise ValueError(f"augment.{field.name}={value}: must be {wanted}")

    @property
    def of_text(self) -> bool:
        """Whether any token changes."""
        return any(getattr(self, name) for name in CHANGES)

    @property
    def growth(self) -> float:
        """By which share texts may become longer; rows are planned with so much room, as far as they can have it."""
        return min(1.0, self.insert + LETTERS_A_TOKEN * self.characters)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raises ValueError for what a tokenizer cannot do."""
        if self.token_mask and tokenizer.mask is None:
            raise ValueError(
                f"augment.token_mask={self.token_mask}: the base's tokenizer has no mask token; "
                "use augment.token_dropout"
            )


class Changed(NamedTuple):
    """A text after changes."""

    text: Text
    may_I: np.ndarray  # bool: which of its tokens may change
    counts: dict[str, int]  # change -> tokens that it moved, put in, left out or replaced


def augmented(text: Text, task: Task, augment: Augment | None) -> Text:
    """A task's training text, changed where the task only reads it; each row's pieces still fit it."""
    if augment is None or not augment.of_text or (may_I := task.only_reads(text)) is None:
        return text
    return changed(text, may_I, augment).text


def changed(text: Text, may_I: np.ndarray, augment: Augment) -> Changed:
    """A text with all changes in turn. `may_I`: tokens that may change, as far as text is made of them.

    What makes texts longer is done as far as their row has room: see `Augment.growth`.
    """
    found = Changed(text, may_I & text.corpus.is_ordinary_V[text.token_I], {})
    for number, (name, change) in enumerate(CHANGES.items()):
        if (rate := getattr(augment, name)) > 0 and found.may_I.any():
            after = change(found.text, found.may_I, rate, SALT + 10 * number)
            found = after._replace(counts=found.counts | after.counts)
    return found


class Words(NamedTuple):
    """The words of a text that may change, in order: each a stretch of tokens."""

    begin_W: np.ndarray  # i64: its first token
    length_W: np.ndarray  # i64: tokens
    piece_W: np.ndarray  # i64
    part_W: np.ndarray  # i64: between special tokens; rising
    kind_W: np.ndarray  # i64: words of one part that are alike in whether a space begins them have the same


def words_of(text: Text, may_I: np.ndarray) -> Words:
    """Words as the marks have them, Chinese ones as jieba cuts them: each with the space before it, without the
    punctuation behind it."""
    bare_I = is_bare(text.corpus.tokenizer)[text.token_I]
    starts_I = may_I & ((text.mark_I & WORD_START) > 0)
    bounds_I = starts_I | bare_I | ~may_I | (text.position_I == 0)
    bound = np.flatnonzero(bounds_I)
    stop = np.append(bound[1:], len(bounds_I))
    is_word = starts_I[bound]
    begin_W, stop_W = bound[is_word], stop[is_word]
    space = text.corpus.tokenizer.encode(" ")
    if len(space) == 1 and len(begin_W):  # a token of its own, as of characters
        before_W = np.maximum(begin_W - 1, 0)
        joins_W = (text.token_I[before_W] == space[0]) & may_I[before_W] & (text.position_I[begin_W] > 0)
        begin_W = begin_W - joins_W
    part_W = parts_of(text)[begin_W]
    spaced_W = begins_with_space(text.corpus.tokenizer)[text.token_I[begin_W]]
    return Words(begin_W, stop_W - begin_W, text.piece_I[begin_W], part_W, 2 * part_W + spaced_W)


def parts_of(text: Text) -> np.ndarray:
    """The part of every token: turns, or the two texts of a pair, which special tokens keep apart; rising, i64 [I]."""
    return np.cumsum(~text.corpus.is_ordinary_V[text.token_I] | (text.position_I == 0))


def swapped(text: Text, may_I: np.ndarray, rate: float, salt: int) -> Changed:
    """Words that change places with another one of their part, as far as neither is taken by an earlier exchange."""
    words = words_of(text, may_I)
    chosen = np.flatnonzero(text.chance(salt)[words.begin_W] < rate / 2)  # of two words each
    other = partners(words, text.chance(salt + 1)[words.begin_W], chosen)
    turn = np.argsort(text.chance(salt + 2)[words.begin_W[chosen]], kind="stable")
    chosen, other = chosen[turn], other[turn]
    first_W = np.full(len(words.begin_W), len(chosen))  # the first exchange that wants each word
    for wants in (chosen, other):
        np.minimum.at(first_W, wants, np.arange(len(chosen)))
    own = np.arange(len(chosen))
    stands = (first_W[chosen] == own) & (first_W[other] == own) & (chosen != other)
    order_W = np.arange(len(words.begin_W))
    order_W[chosen[stands]], order_W[other[stands]] = other[stands], chosen[stands]
    begin_M, length_M, piece_M, word_M = stretches(text, words)
    is_word_M = word_M >= 0
    begin_M[is_word_M], length_M[is_word_M] = words.begin_W[order_W], words.length_W[order_W]
    moved = int(words.length_W[order_W != np.arange(len(order_W))].sum())
    return rebuilt(text, may_I, begin_M, length_M, piece_M, {"swap": moved})


def inserted(text: Text, may_I: np.ndarray, rate: float, salt: int) -> Changed:
    """In front of some words a copy of another one of their part."""
    words = words_of(text, may_I)
    tokenizer, first_W = text.corpus.tokenizer, text.token_I[words.begin_W]
    parted_W = begins_with_space(tokenizer)[first_W] | begins_chinese(tokenizer)[first_W]  # of two, as they stand
    chosen = np.flatnonzero((text.chance(salt)[words.begin_W] < rate) & parted_W)
    other = partners(words, text.chance(salt + 1)[words.begin_W], chosen)
    chosen, other = chosen[parted_W[other]], other[parted_W[other]]
    row, lot = text.row_P[words.piece_W[chosen]], text.chance(salt + 2)[words.begin_W[chosen]]
    fits = room_for(text, row, words.length_W[other], lot)
    chosen, other = chosen[fits], other[fits]
    begin_M, length_M, piece_M, word_M = stretches(text, words)
    place = np.flatnonzero(word_M >= 0)[chosen]
    return rebuilt(
        text, may_I, np.insert(begin_M, place, words.begin_W[other]), np.insert(length_M, place, words.length_W[other]),
        np.insert(piece_M, place, words.piece_W[chosen]), {"insert": int(words.length_W[other].sum())},
    )  # fmt: skip


def deleted(text: Text, may_I: np.ndarray, rate: float, salt: int) -> Changed:
    """Some words left out; of each part one stays."""
    words = words_of(text, may_I)
    leaves_W = but_one(words.part_W, text.chance(salt)[words.begin_W], rate)
    begin_M, length_M, piece_M, word_M = stretches(text, words)
    length_M[np.flatnonzero(word_M >= 0)[leaves_W]] = 0
    return rebuilt(text, may_I, begin_M, length_M, piece_M, {"delete": int(words.length_W[leaves_W].sum())})


def mistyped(text: Text, may_I: np.ndarray, rate: float, salt: int) -> Changed:
    """Some letters typed wrong, at most one of a token, and each letter of it as often."""
    tokenizer, lot_I = text.corpus.tokenizer, text.chance(salt)
    table = misspellings(tokenizer)
    variant_I = (text.chance(salt + 1) * VARIANTS).astype(np.int64)
    length_I = table.length_VK[text.token_I, variant_I]
    wrong = np.flatnonzero(may_I & (length_I > 0) & (lot_I < rate * letters(tokenizer)[text.token_I]))
    row = text.row_P[text.piece_I[wrong]]
    wrong = wrong[room_for(text, row, length_I[wrong] - 1, text.chance(salt + 2)[wrong])]
    count, begin_I, taken_I = len(text.token_I), np.arange(len(text.token_I)), np.ones(len(text.token_I), np.int64)
    begin_I[wrong] = count + table.begin_VK[text.token_I[wrong], variant_I[wrong]]
    taken_I[wrong] = length_I[wrong]
    of_token = np.repeat(np.arange(count), taken_I)
    goes_on = np.append(False, of_token[1:] == of_token[:-1])  # the mark of a token is that of its first part
    made = text._replace(
        length_P=np.bincount(text.piece_I, taken_I, minlength=len(text.length_P)).astype(np.int64),
        token_I=np.concatenate([text.token_I, table.tokens])[runs(begin_I, taken_I)].astype(np.int32),
        mark_I=np.where(goes_on, text.mark_I[of_token] & np.uint8(255 - WORD_START), text.mark_I[of_token]),
    )
    return Changed(made, may_I[of_token], {"characters": len(wrong)})


def dropped(text: Text, may_I: np.ndarray, rate: float, salt: int) -> Changed:
    """Some tokens left out; of each part one stays."""
    place = np.flatnonzero(may_I)
    leaves = place[but_one(parts_of(text)[place], text.chance(salt)[place], rate)]
    length_I = np.ones(len(may_I), np.int64)
    length_I[leaves] = 0
    return rebuilt(text, may_I, np.arange(len(may_I)), length_I, text.piece_I, {"token_dropout": len(leaves)})


def masked(text: Text, may_I: np.ndarray, rate: float, salt: int) -> Changed:
    """Some tokens hidden by the mask."""
    hidden_I = may_I & (text.chance(salt) < rate)
    token_I = np.where(hidden_I, np.int32(text.corpus.tokenizer.mask or 0), text.token_I)
    return Changed(text._replace(token_I=token_I), may_I & ~hidden_I, {"token_mask": int(hidden_I.sum())})


CHANGES: dict[str, Callable[[Text, np.ndarray, float, int], Changed]] = {  # in this order
    "swap": swapped, "delete": deleted, "token_dropout": dropped, "insert": inserted, "characters": mistyped,
    "token_mask": masked,
}  # fmt: skip


def partners(words: Words, chance_W: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For each chosen word one of its part that is alike, perhaps itself: a number of `words`."""
    in_order = np.argsort(words.kind_W, kind="stable")
    kind = words.kind_W[in_order]
    first, last = (np.searchsorted(kind, words.kind_W[chosen], side=side) for side in ("left", "right"))
    return in_order[first + (chance_W[chosen] * (last - first)).astype(np.int64)]


def but_one(part_X: np.ndarray, chance_X: np.ndarray, rate: float) -> np.ndarray:
    """Where chance is below the rate, but for one of each part, that of the highest lot; bool. `part_X` rises."""
    count_X = np.bincount(part_X)[part_X] if len(part_X) else part_X
    return (chance_X < rate) & (ranks(part_X, chance_X) < count_X - 1)


def stretches(text: Text, words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(begin, length, piece, word or -1) of stretches that tile the tokens: words and what is between; i64 [M]."""
    ends_W = words.begin_W + words.length_W
    begin_M = np.unique(np.concatenate([text.first_P, words.begin_W, ends_W]))
    begin_M = begin_M[begin_M < len(text.token_I)]
    word_M = np.full(len(begin_M), -1)
    word_M[np.searchsorted(begin_M, words.begin_W)] = np.arange(len(words.begin_W))
    return begin_M, np.diff(begin_M, append=len(text.token_I)), text.piece_I[begin_M], word_M


def room_for(text: Text, row_X: np.ndarray, size_X: np.ndarray, lot_X: np.ndarray) -> np.ndarray:
    """Which changes, each of so many tokens more in its row, are made so that rows keep to T tokens; bool [X].

    They are made in the order of their lots, up to the first for which there is no room.
    """
    room_R = text.T - np.bincount(text.row_P, text.length_P, minlength=text.R)
    order = np.lexsort((lot_X, row_X))
    row, size = row_X[order], np.maximum(0, size_X[order])
    total = np.cumsum(size)
    before = np.append(0, total)[np.searchsorted(row, row, side="left")]
    fits = np.zeros(len(order), bool)
    fits[order] = total - before <= room_R[row]
    return fits


def rebuilt(
    text: Text, may_I: np.ndarray, begin_M: np.ndarray, length_M: np.ndarray, piece_M: np.ndarray,
    counts: dict[str, int],
) -> Changed:  # fmt: skip
    """The text made of these stretches of its tokens; `piece_M` rises."""
    length_P = np.bincount(piece_M, length_M, minlength=len(text.length_P)).astype(np.int64)
    place = runs(begin_M, length_M)
    made = text._replace(length_P=length_P, token_I=text.token_I[place], mark_I=text.mark_I[place])
    return Changed(made, may_I[place], counts)
