"""Sentence classification: where text comes from, what sort of sentence ends it, and what it is labelled as.

Axes: P pieces  S segments  I tokens  M their bytes  H heads  L sequence-level targets  V vocabulary.
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from data.tasks import continuity, position
from data.tasks.blocks import chain, check_lengths, documents, sentence_stops
from data.tasks.task import Corpus, Targets, Task, Text, fitting, packed
from data.token_store import runs
from gptjax.batch import Batch
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

TYPES = ("statement", "question", "exclamation")
CUES = (".。…", "?？", "!！")  # of each type; what ends a sentence tells its type
OPENERS = "¿¡"  # cues too, though they end nothing
CLOSERS = " \n\t\"'”’»)]}*_」』）】〉》"  # may stand behind what ends a sentence
NO_LABEL = -1  # as stores have it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """Sentence classification, for several kinds of labels at once.

    `labels` name them: "source", the text's source; "type", whether its last sentence states, asks or exclaims, with
    all cues removed from the input; any other, a label field of the sources. What has no label has no target.
    """

    labels: tuple[str, ...] = ()  # () = all that the text has; -type = all but the type, unless nothing else is there
    shortest: int = 8  # tokens of a block of sentences
    longest: int = 64  # from the T of a row on: blocks are whole documents, as far as a row holds them

    loss: ClassVar[str] = "classes"
    auxiliary: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_lengths(self.shortest, self.longest)
        if len({label.startswith("-") for label in self.labels}) > 1:
            raise ValueError(f"labels={self.labels}: name those to learn, or with - those to leave out, not both")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels={self.labels}: name none twice")

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        known = {"source", "type"}.union(*(corpus.classes[source] for source in self.sources or corpus.sources))
        for label in self.labels:
            if label.startswith("-") and label[1:] not in known:
                raise ValueError(f"labels: {label!r}: no source has {label[1:]!r}{did_you_mean(label[1:], known)}")
        return {name: self.classes(corpus, name) for name in self.kinds(corpus)}

    def kinds(self, corpus: Corpus) -> tuple[str, ...]:
        """The kinds of labels that are learnt: those named, or all that have two classes and more."""
        left_out = {label[1:] for label in self.labels if label.startswith("-")}
        if self.labels and not left_out:
            return self.labels
        read = self.sources or corpus.sources
        several = {field for source in read for field, names in corpus.classes[source].items() if len(names) > 1}
        several -= {"source", "type", position.HEAD, continuity.HEAD}  # these are heads already
        found = (*(["source"] if len(read) > 1 else []), "type", *sorted(several))
        return tuple(kind for kind in found if kind not in left_out) or found

    def classes(self, corpus: Corpus, name: str) -> tuple[str, ...]:
        """What a kind of label may say. Raises ValueError if no source has it, or it says always the same."""
        read = self.sources or corpus.sources
        known = {field: classes for source in read for field, classes in corpus.classes[source].items()}
        if name == "source":
            classes = tuple(read)
        elif name == "type":
            classes = TYPES
        elif name in known:
            of_sources = (corpus.classes[source].get(name, ()) for source in read)
            classes = tuple(sorted(set().union(*of_sources)))
        else:
            raise ValueError(f"labels: {name!r}{did_you_mean(name, ('source', 'type', *known))}")
        if len(classes) < 2:
            raise ValueError(f"labels: {name!r} has fewer than two classes in what it reads: {list(classes)}; drop it")
        return classes

    def targets_a_row(self, corpus: Corpus, T: int) -> int:
        """Raises ValueError where no block fits in a row."""
        if self.shortest + 2 > T:
            raise ValueError(
                f"shortest={self.shortest}: such a block, BOS and EOS are {self.shortest + 2} tokens, too many for a "
                f"row of T={T}; use {T - 2} or less, or longer rows"
            )
        return len(self.kinds(corpus)) * (T // (self.shortest + 2))

    def remarks(self, corpus: Corpus) -> list[str]:
        """Classes that no training document has: all held-out documents of them will be misses."""
        said = []
        for name in sorted({*self.kinds(corpus)} - {"source", "type"}):
            seen: set[str] = set()
            for source, store in zip(corpus.sources, corpus.stores, strict=True):
                fields = corpus.classes[source]
                if name in fields:
                    present = np.unique(store.label_DF[:, list(fields).index(name)])
                    seen |= {fields[name][number] for number in present if number != NO_LABEL}
            if unseen := sorted(set(self.classes(corpus, name)) - seen):
                said.append(f"labels: no training document has {name} {', '.join(map(repr, unseen))}")
        return said

    def build(self, text: Text) -> Batch:
        """Segments BOS block EOS, all visible, with a target for every head whose label the text has."""
        piece_S, begin_S, stop_S = self.whole(text) if self.longest >= text.T else self.sentences(text)
        length_S = stop_S - begin_S
        kept_S = (self.shortest <= length_S) & (length_S <= self.longest)
        kept_S[kept_S] = fitting(text.row_P[piece_S[kept_S]], length_S[kept_S] + 2, text.T)
        piece_S, begin_S, length_S = piece_S[kept_S], begin_S[kept_S], length_S[kept_S]
        type_S, is_cue_I = None, np.zeros(len(text.token_I), bool)
        kinds = self.kinds(text.corpus)
        if "type" in kinds:
            type_S, is_cue_I = types(text.corpus.tokenizer, text.token_I, begin_S, begin_S + length_S)
        label_SH = np.stack([self.labelled(text, name, piece_S, type_S) for name in kinds], 1)

        # BOS, the block and EOS, as runs of one array
        tokenizer = text.corpus.tokenizer
        tokens = np.concatenate([text.token_I, [tokenizer.bos, tokenizer.eos]])
        one = np.ones_like(piece_S)
        begin_S3 = np.stack([one * (len(tokens) - 2), begin_S, one * (len(tokens) - 1)], 1)
        place_I = runs(begin_S3.ravel(), np.stack([one, length_S, one], 1).ravel())
        segment_I = np.repeat(np.arange(len(piece_S)), length_S + 2)
        stays_I = ~np.append(is_cue_I, [False, False])[place_I]
        tokens_I = tokens[place_I[stays_I]]
        segment_L, head_L = np.nonzero(label_SH != NO_LABEL)
        return packed(
            text, text.row_P[piece_S], np.bincount(segment_I[stays_I], minlength=len(piece_S)), tokens_I,
            visible_I=np.ones(len(tokens_I), bool),
            targets=Targets(segment_L, head_L, label_SH[segment_L, head_L]), Q=self.targets_a_row(text.corpus, text.T),
        )  # fmt: skip

    def sentences(self, text: Text) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(piece, begin, stop) of blocks of whole sentences, as indices into the tokens; i64 [S]."""
        most_P = np.minimum((self.shortest + self.longest) // 2, text.length_P - 2)
        least_P = self.shortest + (text.chance_of_pieces(0) * (most_P - self.shortest + 1)).astype(np.int64)
        opens_P = documents(text)[0] == text.start_P
        begin_P = np.where(opens_P, text.first_P + 1, sentence_stops(text.mark_I, text.first_P))
        return chain(text.mark_I, begin_P, np.maximum(1, least_P), text.first_P + text.length_P)

    def whole(self, text: Text) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for whole documents. One that the row cuts off gives up two tokens for the BOS and EOS of a row."""
        opens_P = documents(text)[0] == text.start_P
        given_up_P = np.where(text.next_P < 0, 1, 2)  # 1: its own EOS
        stop_P = text.first_P + text.length_P - given_up_P
        return np.arange(len(opens_P)), text.first_P + opens_P, stop_P

    def labelled(self, text: Text, name: str, piece_S: np.ndarray, type_S: np.ndarray | None) -> np.ndarray:
        """The class of each segment among `classes`; NO_LABEL where it has none. i64 [S]"""
        if name == "type" and type_S is not None:
            return type_S
        corpus, source_S = text.corpus, text.source_P[piece_S]
        classes = self.classes(corpus, name)
        label_S = np.full(len(piece_S), NO_LABEL)
        for source in np.unique(source_S):
            here, source_name = source_S == source, corpus.sources[source]
            fields = corpus.classes[source_name]
            if name == "source":
                label_S[here] = classes.index(source_name)
            elif name in fields:
                number_of = np.array([*map(classes.index, fields[name]), NO_LABEL])  # stored -1 is its last
                stored = corpus.stores[source].label_DF[:, list(fields).index(name)]
                label_S[here] = number_of[stored[text.document_P[piece_S[here]]]]
        return label_S


def types(tokenizer: Tokenizer, token_I: np.ndarray, begin_S, stop_S) -> tuple[np.ndarray, np.ndarray]:
    """(type of the last sentence of each stretch of tokens, i64 [S]; tokens that show any type, bool [I]).

    A type is told by the last character but closing quotes and brackets; NO_LABEL where that is no cue.
    """
    bytes_V, length_V = spellings(tokenizer)
    length_I = length_V[token_I]
    end_I = np.cumsum(length_I)  # in bytes
    byte_M = bytes_V[runs((np.cumsum(length_V) - length_V)[token_I], length_I)]
    type_M = np.full(len(byte_M), NO_LABEL)
    for number, characters in enumerate(CUES):
        type_M[holding(byte_M, characters)] = number
    is_cue_M = (type_M != NO_LABEL) | holding(byte_M, OPENERS)
    last_M = np.maximum.accumulate(np.where(holding(byte_M, CLOSERS), -1, np.arange(len(byte_M))))
    last_S = last_M[end_I[stop_S - 1] - 1]
    inside_S = last_S >= (end_I - length_I)[begin_S]
    is_cue_I = np.zeros(len(token_I), bool)
    is_cue_I[np.repeat(np.arange(len(token_I)), length_I)[is_cue_M]] = True
    return np.where(inside_S, type_M[last_S], NO_LABEL), is_cue_I


def holding(byte_M: np.ndarray, characters: str) -> np.ndarray:
    """Bytes of UTF-8 text that spell one of the characters; bool [M]."""
    found_M = np.zeros(len(byte_M), bool)
    for character in characters:
        spelt = character.encode()
        begins = np.ones(max(0, len(byte_M) - len(spelt) + 1), bool)
        for number, byte in enumerate(spelt):
            begins &= byte_M[number : number + len(begins)] == byte
        for number in range(len(spelt)):
            found_M[number : number + len(begins)] |= begins
    return found_M


@functools.lru_cache(maxsize=2)
def spellings(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(the bytes of all tokens, one after another, u8; how many each has, i64 [V])."""
    spelt = [tokenizer.spelling(id) for id in range(tokenizer.size)]
    return np.frombuffer(b"".join(spelt), np.uint8), np.array([*map(len, spelt)])
