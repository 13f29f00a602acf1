"""The byte-level BPE tokenizer within a GGUF file. Does not import JAX.

Source: github.com/ggml-org/ggml, docs/gguf.md, section "Tokenizer"; how `tokenizer.ggml.pre` cuts words: llama.cpp,
src/llama-vocab.cpp.
"""

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gptjax.text.tokenizer import Tokenizer

KEY = "tokenizer.ggml."
TOKENIZER_KEYS = {f"{KEY}{name}" for name in (
    "model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "padding_token_id",
    "eot_token_id", "eom_token_id", "add_bos_token", "add_eos_token",
    "unknown_token_id", "scores", "add_space_prefix",  # say nothing of a byte-level BPE
)} | {"tokenizer.chat_template"}  # fmt: skip
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # token_type
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
# Value of `tokenizer.ggml.pre` -> how words are cut, and how the text is normalised first.
CUTS: dict[str, tuple[Any, Any]] = {
    "gpt-2": (GPT2_WORDS, None),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_WORDS]), None),
    "qwen2": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(QWEN2), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        normalizers.NFC(),
    ),
}


def tokenizer_of(settings: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """The tokenizer of a file's settings, and whether its texts begin with BOS.

    Raises ValueError naming the key that is missing, malformed or not supported.
    """
    kind, pre = settings.get(f"{KEY}model"), settings.get(f"{KEY}pre")
    if kind != "gpt2":
        raise ValueError(f"{KEY}model is {kind!r}; only 'gpt2', a byte-level BPE, is read")
    if pre not in list(CUTS):
        raise ValueError(f"{KEY}pre is {pre!r}; only {', '.join(map(repr, CUTS))} are known")
    tokens, merges = _texts(settings, "tokens"), _texts(settings, "merges")
    types = settings.get(f"{KEY}token_type")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ValueError(f"{KEY}token_type does not give a type for each of the {len(tokens)} tokens")
    if odd := set(types) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED}:
        raise ValueError(f"{KEY}token_type has {min(odd)}, which no byte-level BPE has")
    vocabulary = {token: id for id, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError(f"{KEY}tokens holds a token twice")
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise ValueError(f"{KEY}merges: {merge[:60]!r} does not join two tokens to a third")
        pairs.append((left, right))
    for key in (f"{KEY}add_bos_token", f"{KEY}add_eos_token"):
        if not isinstance(settings.get(key, False), bool):
            raise ValueError(f"{key} is {settings[key]!r}; must be true or false")
    if settings.get(f"{KEY}add_eos_token"):
        raise ValueError(f"{KEY}add_eos_token is true; texts that end with EOS by themselves are not supported")
    rules = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    rules.pre_tokenizer, normalizer = CUTS[pre]
    if normalizer is not None:
        rules.normalizer = normalizer
    rules.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    typed = list(zip(tokens, types, strict=True))
    rules.add_special_tokens([token for token, kind in typed if kind in (UNKNOWN, CONTROL)])
    rules.add_tokens([tokenizers.AddedToken(token, normalized=False) for token, kind in typed if kind == USER_DEFINED])
    ids = {"bos": token_id(settings, "bos"), "eos": token_id(settings, "eos"), "pad": token_id(settings, "padding")}
    roles = {role: tokens[id] for role, id in ids.items() if id is not None}
    return Tokenizer(rules, roles), settings.get(f"{KEY}add_bos_token", False)


def token_id(settings: Mapping[str, Any], name: str) -> int | None:
    """The id of a special token, if the file gives it. Raises ValueError where there is no such token."""
    id, count = settings.get(f"{KEY}{name}_token_id"), len(settings[f"{KEY}tokens"])
    if id is not None and (type(id) is not int or not 0 <= id < count):
        raise ValueError(f"{KEY}{name}_token_id is {id!r}, beyond the {count} tokens")
    return id


def _texts(settings: Mapping[str, Any], name: str) -> list[str]:
    value = settings.get(f"{KEY}{name}")
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{KEY}{name} is missing, or not a list of texts")
    return value
