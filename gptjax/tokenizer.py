"""Text to token ids and back: byte-level BPE or characters. Any Unicode text survives the round trip exactly."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
SPECIAL_TOKENS = (PAD, BOS, EOS)  # ids 0, 1, 2
SPEAKERS = ("A", "B")  # how the two sides of a conversation are written, one turn a line


class Tokenizer:
    """A vocabulary and its rules, kept in one `tokenizer.json` that Hugging Face `tokenizers` reads too.

    Special tokens come only from `bos`, `eos` and `pad`: `<|eos|>` typed by a user is encoded as plain characters.
    """

    def __init__(self, rules: tokenizers.Tokenizer):
        rules.encode_special_tokens = True  # text never becomes a special token; this switch is not saved in the file
        self._rules = rules
        missing = [token for token in SPECIAL_TOKENS if rules.token_to_id(token) is None]
        if missing:
            raise ValueError(f"tokenizer: no token {missing}; a tokenizer of ours has {list(SPECIAL_TOKENS)}")
        self.pad, self.bos, self.eos = (rules.token_to_id(token) for token in SPECIAL_TOKENS)

    def __reduce__(self):
        """Travels to worker processes as its rules; the library's own pickling forgets `encode_special_tokens`."""
        return _from_rules, (self._rules.to_str(),)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads a `tokenizer.json`. Raises ValueError if the file is not one."""
        try:
            return _from_rules(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a tokenizer file ({error})") from error

    def save(self, path: Path) -> None:
        Path(path).write_text(self._rules.to_str(), encoding="utf-8")

    @property
    def size(self) -> int:
        """Number of token ids, special tokens included."""
        return self._rules.get_vocab_size()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rules: two tokenizers with the same one encode alike."""
        return hashlib.sha256(self._rules.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without BOS or EOS."""
        return self._rules.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        return [encoding.ids for encoding in self._rules.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens vanish, and bytes that are no UTF-8 become U+FFFD."""
        return self._rules.decode(list(ids), skip_special_tokens=True)

    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes that each token id stands for; special tokens stand for none."""
        lengths = []
        byte_level = isinstance(self._rules.decoder, decoders.ByteLevel)
        for id in range(self.size):
            name = self._rules.id_to_token(id)
            assert name is not None, id  # ids have no gaps
            if name in SPECIAL_TOKENS:
                lengths.append(0)
            elif byte_level:  # one character of the name a byte
                lengths.append(len(name))
            else:
                lengths.append(1 if re.fullmatch("<0x[0-9A-F]{2}>", name) else len(name.encode()))
        return lengths

    def token(self, id: int) -> str:
        """The text of one token, for a person to look at; a special token shows its name."""
        name = self._rules.id_to_token(int(id))
        if name is None:
            raise ValueError(f"token id {id} is beyond the vocabulary of {self.size}")
        return name if name in SPECIAL_TOKENS else self.decode([int(id)])


def _from_rules(rules: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(rules))


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns a byte-level BPE of `vocabulary` tokens from the texts.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    rules = tokenizers.Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    rules.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rules.train_from_iterator(texts, trainer)
    return Tokenizer(rules)


def train_characters(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """One token a character, for the characters seen in the texts; any other is spelt in UTF-8 bytes.

    Raises ValueError if the characters, 256 bytes and special tokens exceed `vocabulary`.
    """
    seen = sorted(set().union(*map(set, texts)))
    alphabet = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *seen]
    if len(alphabet) > vocabulary:
        raise ValueError(
            f"data.vocabulary={vocabulary}: the text has {len(seen)} different characters, which with 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens need {len(alphabet)}; raise it, or use the bpe tokenizer"
        )
    rules = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(alphabet)}, [], byte_fallback=True))
    rules.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])  # pyright: ignore[reportAttributeAccessIssue]
    rules.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(rules)


def dialogue_text(turns: Sequence[str]) -> str:
    """A conversation as training text: one line a turn, speakers `A` and `B` in turn.

    Line breaks inside a turn become spaces.
    """
    return "".join(turn_line(number, turn) for number, turn in enumerate(turns))


def turn_line(number: int, turn: str) -> str:
    """Turn `number` (0 = first) of a conversation, as one line."""
    return f"{SPEAKERS[number % 2]}: {' '.join(turn.split())}\n"


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Decodes ids one at a time; yields text as soon as it is whole, so that no character is ever cut in two."""
    held: list[int] = []  # a token may end one character and begin the next, so these can be many
    shown = 0  # characters of them that were yielded
    for id in ids:
        held.append(id)
        text = tokenizer.decode(held)
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")  # what an unfinished character decodes to
        if len(whole) > shown:
            yield whole[shown:]
            shown = len(whole)
        if whole == text:
            held, shown = [], 0
    if rest := tokenizer.decode(held)[shown:]:
        yield rest
