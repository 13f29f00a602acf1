"""A SentencePiece `.model` as the rules of Hugging Face `tokenizers`, so that a run keeps its one `tokenizer.json`.

Both kinds that SentencePiece trains by default, unigram and BPE, are read without its library. What differs from it on
some texts is said at `convert`.
"""

import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import tokenizers
from google.protobuf import empty_pb2, unknown_fields
from tokenizers import decoders, models, normalizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # ModelProto.SentencePiece.Type
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
SPACE = "▁"  # U+2581, how a piece spells a space


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


def convert(model: bytes) -> tokenizers.Tokenizer:
    """The rules of a model: the same ids as SentencePiece, special pieces apart, which text never becomes.

    Differences that are known: characters that only normalise together and are 6 bytes or longer (a Korean syllable
    in decomposed letters) are normalised one by one; of equally good spellings another may be taken (`....` as `.`
    and `...`); what is normalised at the ends of a text, spaces above all, is so on both sides of a user-defined piece
    of a BPE too.
    Raises ValueError if the bytes are no such model, or one of a kind that is not read.

    Source: Kudo and Richardson 2018, arXiv:1808.06226; field numbers from its sentencepiece_model.proto.
    """
    fields = _fields(model)
    pieces = [_piece(piece) for piece in fields[1]]
    trainer, normaliser = _fields(_last(fields, 2, b"")), _fields(_last(fields, 3, b""))
    kind, suffix = _last(trainer, 3, UNIGRAM), _last(trainer, 24, 0)
    byte_fallback = bool(_last(trainer, 35, 0))
    kinds = [piece.kind for piece in pieces]
    if kind not in (UNIGRAM, BPE) or suffix or UNUSED in kinds or kinds.count(UNKNOWN) != 1:
        raise ValueError(
            f"a SentencePiece model with model_type={kind}, treat_whitespace_as_suffix={bool(suffix)}, "
            f"{kinds.count(UNUSED)} unused pieces and {kinds.count(UNKNOWN)} unknown ones; read are model_type "
            f"{UNIGRAM} (unigram) and {BPE} (BPE) with no suffix, no unused piece and one unknown piece"
        )
    rules = tokenizers.Tokenizer((_unigram if kind == UNIGRAM else _bpe)(pieces, byte_fallback))
    space = SPACE if _last(normaliser, 5, 1) else " "
    prefix = bool(_last(normaliser, 3, 1))
    steps = []
    if charsmap := _last(normaliser, 2, b""):
        steps.append(normalizers.Precompiled(charsmap))
    if _last(normaliser, 4, 1):  # remove_extra_whitespaces
        steps.append(normalizers.Replace(tokenizers.Regex(rf"\A +|[ {SPACE}]+\z"), ""))
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    if prefix:
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", space))
    rules.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    spelt = [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
    rules.decoder = decoders.Sequence([*spelt, *[decoders.Strip(" ", 1, 0)] * prefix])  # pyright: ignore[reportAttributeAccessIssue]
    rules.add_special_tokens([piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL)])
    if kind == BPE:
        own = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
        rules.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in own])
    return rules


def _unigram(pieces: Sequence[Piece], byte_fallback: bool) -> models.Unigram:
    best = max(piece.score for piece in pieces if piece.kind == NORMAL)

    def score(piece: Piece) -> float:
        # a user-defined piece beats whatever else would spell its text: SentencePiece gives it the same score
        exact = len(piece.text) * best - 0.1 if piece.kind == USER_DEFINED else piece.score
        return float(f"{exact:.9g}")  # all of a float32; of more digits `tokenizers` reads others than it wrote

    unknown = next(id for id, piece in enumerate(pieces) if piece.kind == UNKNOWN)
    return models.Unigram([(piece.text, score(piece)) for piece in pieces], unknown, byte_fallback)


def _bpe(pieces: Sequence[Piece], byte_fallback: bool) -> models.BPE:
    """SentencePiece merges the neighbours that make the piece of the best score, whatever its two halves."""
    id_of = {piece.text: id for id, piece in enumerate(pieces)}
    merges = []
    for piece in sorted((piece for piece in pieces if piece.kind == NORMAL), key=lambda piece: -piece.score):
        halves = ((piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text)))
        merges += sorted(
            (pair for pair in halves if pair[0] in id_of and pair[1] in id_of),
            key=lambda pair: (id_of[pair[0]], id_of[pair[1]]),
        )
    unknown = next(piece.text for piece in pieces if piece.kind == UNKNOWN)
    return models.BPE(id_of, merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)


def _piece(message: bytes) -> Piece:
    fields = _fields(message)
    (score,) = struct.unpack("<f", struct.pack("<I", _last(fields, 2, 0)))
    return Piece(_last(fields, 1, b"").decode("utf-8"), score, _last(fields, 3, NORMAL))


def _fields(message: bytes) -> dict[int, list]:
    """Field number -> its values, of a protobuf message whose schema nobody has loaded."""
    untyped = empty_pb2.Empty()
    untyped.ParseFromString(message)
    found = defaultdict(list)
    for field in unknown_fields.UnknownFieldSet(untyped):
        found[field.field_number].append(field.data)
    return found


def _last(fields: dict[int, list], number: int, default):
    """A field that is there once, or its default in the schema."""
    return fields[number][-1] if fields[number] else default
