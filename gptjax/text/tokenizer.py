"""Text to token ids and back: learnt from text, raw bytes, GPT-2's, or from a file of somebody else's."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tokenizers
from tokenizers import pre_tokenizers, processors

from gptjax.files.atomic_file import write_whole
from gptjax.files.bounded_files import refuse_pointer
from gptjax.files.places import expanded
from gptjax.text.sentencepiece_model import convert
from gptjax.text.tokenizer_rules import (  # noqa: F401  names that were here before are still imported from here
    BOS,
    BOS_NAMES,
    BYTE,
    BYTE_OF,
    EOS,
    EOS_NAMES,
    LONGEST_WORD,
    MASK,
    MASK_NAMES,
    PAD,
    PAD_NAMES,
    SPECIAL_TOKENS,
    byte_rules,
    gpt2_rules,
    is_loose,
    learnt_bpe,
    learnt_characters,
    role_id,
    token_name,
)

SPEAKERS = ("A", "B")  # how the two sides of a conversation are written, one turn a line


class Tokenizer:
    """A vocabulary and its rules, kept in one `tokenizer.json` that Hugging Face `tokenizers` reads too.

    Special tokens come only from `bos`, `eos`, `pad` and `mask`: `<|eos|>` typed by a user is encoded as plain
    characters. They are known by their usual names (BOS_NAMES ...); without a BOS the EOS begins a text, without a PAD
    it fills, and without a MASK `mask` is None: see `with_mask`.

    Byte-level tokenizers (`bpe`, `characters`, `bytes`, `gpt2`, those of most recent models) give any text back
    exactly. A SentencePiece model gives its normalised text back: with NFKC `ﬁ` becomes `fi`, runs of spaces may become
    one, and without byte fallback a character that it does not know is lost.

    `roles`: names of the special tokens `bos`, `eos` and `pad` where the model says which they are.
    """

    def __init__(self, rules: tokenizers.Tokenizer, roles: Mapping[str, str] = MappingProxyType({})):
        self.roles = dict(roles)
        usual = {"eos": EOS_NAMES, "bos": (*BOS_NAMES, *EOS_NAMES), "pad": (*PAD_NAMES, *EOS_NAMES)}
        self.eos, self.bos, self.pad = (
            role_id(rules, [roles[role]] if role in roles else names) for role, names in usual.items()
        )
        self.mask = next((id for name in MASK_NAMES if (id := rules.token_to_id(name)) is not None), None)
        added = rules.get_added_tokens_decoder()
        for id in (self.eos, self.bos, self.pad, self.mask):
            if id is not None and not (id in added and added[id].special):  # a file may hold it as a plain token
                rules.add_special_tokens([token_name(rules, id)])
        rules.no_truncation()  # both are settings of a file that somebody made for fixed-size batches
        rules.no_padding()
        rules.encode_special_tokens = True  # text never becomes a special token; this switch is not saved in the file
        added = rules.get_added_tokens_decoder()
        self._special = {id: token.content for id, token in added.items() if token.special}
        self._added = {id: token.content for id, token in added.items() if not token.special}  # spelt out in text
        decoder = rules.decoder
        self._byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        self._rules = rules
        self.size = max(rules.get_vocab().values()) + 1  # ids: special tokens count, and those that a file leaves out
        if self._from_text():
            self._cut_names()
        if names := self._from_text():
            raise ValueError(f"tokenizer: text that holds {names[:5]} would become special tokens; it cannot be used")

    def _from_text(self) -> list[str]:
        """Names of special tokens and of bytes that become these tokens where a text holds them, as they must not.

        The token that stands for unknown characters may.
        """
        unknown = self.encode("\U0010fffe")
        names = [name for id, name in self._special.items() if id not in unknown]
        return [name for name in (*names, "<0x41>") if self._rules.token_to_id(name) in self.encode(name)]

    def _cut_names(self) -> None:
        """Has the rules cut such names in two wherever a text holds them: a vocabulary may have them as words."""
        heads = [f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in self._special.values() if len(name) > 1]
        heads.append(r"<(?=0x[0-9A-F]{2}>)")
        cut = pre_tokenizers.Split(tokenizers.Regex("|".join(heads)), "merged_with_previous")
        then = self._rules.pre_tokenizer
        both = cut if then is None else pre_tokenizers.Sequence([cut, then])
        self._rules.pre_tokenizer = both  # pyright: ignore[reportAttributeAccessIssue]

    def __reduce__(self):
        """Travels to worker processes as its rules; the library's own pickling forgets `encode_special_tokens`."""
        return _from_rules, (self._rules.to_str(), self.roles)

    @classmethod
    def load(cls, path: Path, roles: Mapping[str, str] = MappingProxyType({})) -> "Tokenizer":
        """Reads a `tokenizer.json` or a SentencePiece `.model`. Raises ValueError if the file is neither."""
        return cls.parsed(Path(path).read_bytes(), str(path), roles)

    @classmethod
    def parsed(cls, content: bytes, where: str, roles: Mapping[str, str] = MappingProxyType({})) -> "Tokenizer":
        """`load`, of what the file named `where` holds."""
        try:
            refuse_pointer(content)
            if content.lstrip()[:1] == b"{":
                return _from_rules(content.decode("utf-8"), roles)
            return Tokenizer(convert(content), roles)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{where}: not a usable tokenizer.json or SentencePiece model: {error}") from error

    def save(self, path: Path) -> None:
        write_whole(Path(path), self.content)

    @property
    def content(self) -> bytes:
        """What a `tokenizer.json` holds."""
        return self._rules.to_str().encode()

    def for_others(self, begins_with_bos: bool) -> str:
        """The `tokenizer.json`, in which a text begins with BOS by itself, as Hugging Face's loaders want it."""
        rules = tokenizers.Tokenizer.from_str(self._rules.to_str())
        if begins_with_bos:
            name = self.token(self.bos)
            rules.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
                single=[name, "$A"], pair=[name, "$A", "$B:1"], special_tokens=[(name, self.bos)]
            )
        return rules.to_str(pretty=True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rules: two tokenizers with the same one encode alike."""
        return hashlib.sha256(self._rules.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without BOS or EOS."""
        return self._rules.encode(text, add_special_tokens=False).ids

    @property
    def special_names(self) -> frozenset[str]:
        """Of the special tokens."""
        return frozenset(self._special.values())

    @property
    def added_names(self) -> frozenset[str]:
        """Of all added tokens, which `encode_spelt` makes ids of; the special ones are among them."""
        return frozenset({*self._special.values(), *self._added.values()})

    def shielded(self, text: str) -> str:
        """The text, marked so that `encode_spelt` takes the names of special and other added tokens in it for plain
        characters; not those of white space, which nobody forges anything with.

        Raises ValueError where it holds such a name of a single character, which cannot be told from text.
        """
        text = text.replace(SHIELD, "")
        for name in self.added_names:
            if name.strip() and name in text:
                place = shield_place(name)
                text = text.replace(name, name[:place] + SHIELD + name[place:])
        return text

    def encode_spelt(self, text: str) -> list[int]:
        """Token ids of a text whose special tokens are spelt out by name, but for what `shielded` has marked."""
        return self._spelling_rules.encode(text, add_special_tokens=False).ids

    def encode_spelt_at(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode_spelt`, and the (first, one past the last) character of the text that each id stands for."""
        encoding = self._spelling_rules.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    @functools.cached_property
    def _spelling_rules(self) -> tokenizers.Tokenizer:
        """The rules, which drop the marks once they have found the added tokens; the special ones by their exact names.

        Else a file could have `<END>` typed become `<end>`, where its rules make letters small.
        """
        rules = tokenizers.Tokenizer.from_str(self._rules.to_str())
        if loose := {id for id, name in self._special.items() if is_loose(rules, id, name)}:
            fields = json.loads(rules.to_str())
            for token in fields["added_tokens"]:
                token["normalized"] &= token["id"] not in loose
            rules = tokenizers.Tokenizer.from_str(json.dumps(fields))
        drop, then = pre_tokenizers.Split(SHIELD, "removed"), rules.pre_tokenizer
        both = drop if then is None else pre_tokenizers.Sequence([drop, then])
        rules.pre_tokenizer = both  # pyright: ignore[reportAttributeAccessIssue]
        return rules

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that no text is made of."""
        return frozenset(self._special)

    @functools.cached_property
    def added_ids(self) -> frozenset[int]:
        """Ids of all added tokens; the special ones are among them."""
        return frozenset({*self._special, *self._added})

    def with_mask(self) -> "Tokenizer":
        """The same with a MASK, one more token unless there is one."""
        if self.mask is not None:
            return self
        rules = tokenizers.Tokenizer.from_str(self._rules.to_str())
        rules.add_special_tokens([MASK])
        return Tokenizer(rules, self.roles)

    @functools.cached_property
    def exact(self) -> bool:
        """Whether the ids of a text, by their `byte_lengths`, cut its UTF-8 bytes into pieces and leave none out."""
        probe = " two  spaces\n\tﬁ e\u0301 漢 \U0001f600 "
        ids, lengths = self.encode(probe), self.byte_lengths()
        return self._rules.normalizer is None and sum(lengths[id] for id in ids) == len(probe.encode())

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """(first, one past the last) character of the text that each id of `encode` stands for."""
        return self._rules.encode(text, add_special_tokens=False).offsets

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        return [encoding.ids for encoding in self._rules.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens vanish, and bytes that are no UTF-8 become U+FFFD."""
        return self._rules.decode(list(ids), skip_special_tokens=True)

    def continuation(self, ids: Iterable[int]) -> str:
        """What the ids add to a text before them. There SentencePiece's `▁the` is " the", at a text's start "the"."""
        return self.decode([*self._before, *ids])[len(self.decode(self._before)) :]

    @functools.cached_property
    def _before(self) -> list[int]:
        """A token of letters, to decode others behind it; none if there is none."""
        for id in range(self.size):
            name = self._rules.id_to_token(id)
            if name and id not in self._special and not BYTE.fullmatch(name) and self.decode([id]).isalpha():
                return [id]
        return []

    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes that each token id stands for; special tokens stand for none.

        Over a text they add up to its bytes. Of a SentencePiece model, to those of the normalised text, one more for
        the space that it puts in front, and fewer where a character is unknown to it.
        """
        return [len(self.spelling(id)) for id in range(self.size)]

    def spelling(self, id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, which may be part of a character; none for a special token."""
        name = self._rules.id_to_token(id)
        if name is None or id in self._special:
            return b""
        if id in self._added or (self._byte_level and not BYTE_OF.keys() >= set(name)):
            return name.encode()
        if self._byte_level:
            return bytes(BYTE_OF[character] for character in name)
        return bytes.fromhex(name[3:5]) if BYTE.fullmatch(name) else self.continuation([id]).encode()

    def token(self, id: int) -> str:
        """The text of one token, for a person to look at; a special token shows its name."""
        if not 0 <= id < self.size:
            raise ValueError(f"token id {id} is beyond the vocabulary of {self.size}")
        return self._special.get(int(id)) or self.continuation([int(id)])

    def ids_of(self, text: str) -> list[int]:
        """The tokens that stand for exactly this text, or have it as their name; raises ValueError if none does."""
        if text not in self._ids_by_text:
            parts = [self.token(id) for id in self.encode(text)]
            raise ValueError(f"{text!r} is no token of this vocabulary, but {len(parts)} of them: {parts}")
        return self._ids_by_text[text]

    @functools.cached_property
    def _ids_by_text(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for id in range(self.size):
            found.setdefault(self.token(id), []).append(id)
        return found


SHIELD = "\ufdd0"  # a noncharacter, which Unicode keeps for use within programs


def shield_place(name: str) -> int:
    """Before which character of a typed token's name a SHIELD goes. Raises ValueError where there is no room for one.

    A name of a single character cannot be told from text.
    """
    if len(name) == 1:
        raise ValueError(f"the text holds {name!r}, which is a special token of this model: leave it out")
    return 1


def _from_rules(rules: str, roles: Mapping[str, str] = MappingProxyType({})) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(rules), roles)


def ready_made(name: str) -> Tokenizer:
    """The tokenizer that needs no text: `bytes`, `gpt2`, or the path of a tokenizer.json or SentencePiece model.

    One without a MASK is given one, so that every objective can be trained.

    Raises ValueError if the file, or the package that carries GPT-2's, is not there.
    """
    if name == "bytes":
        return byte_tokenizer()
    if name == "gpt2":
        return gpt2_tokenizer().with_mask()
    path = expanded(name)
    if not path.is_file():
        raise ValueError(f"data.tokenizer={name!r}: no such file; give a tokenizer.json or a SentencePiece .model")
    return Tokenizer.load(path).with_mask()


def byte_tokenizer() -> Tokenizer:
    """One token a UTF-8 byte: id 4 is byte 0. The special tokens come first, as in all tokenizers of ours."""
    return Tokenizer(byte_rules())


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's own 50,257 tokens: see gptjax.text.tokenizer_rules."""
    return Tokenizer(gpt2_rules())


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns a byte-level BPE of `vocabulary` tokens from the texts: see gptjax.text.tokenizer_rules."""
    return Tokenizer(learnt_bpe(texts, vocabulary))


def train_characters(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """One token a character of the texts; others are spelt in bytes: see gptjax.text.tokenizer_rules."""
    return Tokenizer(learnt_characters(texts, vocabulary))


def dialogue_text(turns: Sequence[str]) -> str:
    """A conversation as training text: one line a turn, speakers `A` and `B` in turn.

    Line breaks inside a turn become spaces.
    """
    return "".join(turn_line(number, turn) for number, turn in enumerate(turns))


def turn_line(number: int, turn: str) -> str:
    """Turn `number` (0 = first) of a conversation, as one line."""
    return f"{SPEAKERS[number % 2]}: {' '.join(turn.split())}\n"


class StreamDecoder:
    """Decodes ids that continue a text, one at a time, into what is whole: no character is ever cut in two."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._held: list[int] = []  # a token may end one character and begin the next, so these can be many
        self._shown = 0  # characters of them that were handed out

    def push(self, id: int) -> str:
        """The characters that are whole with one more token, and were not before."""
        self._held.append(id)
        text = self._tokenizer.continuation(self._held)
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")  # what an unfinished character decodes to
        new, self._shown = whole[self._shown :], max(self._shown, len(whole))
        if whole == text:
            self._held, self._shown = [], 0
        return new

    def rest(self) -> str:
        """What is left where no further token comes; an unfinished character decodes to U+FFFD."""
        rest = self._tokenizer.continuation(self._held)[self._shown :]
        self._held, self._shown = [], 0
        return rest
