"""The byte-level BPE tokenizer within a GGUF file, both ways. Does not import JAX.

Source: github.com/ggml-org/ggml, docs/gguf.md, section "Tokenizer"; how `tokenizer.ggml.pre` cuts words: llama.cpp,
src/llama-vocab.cpp.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gptjax.files.plain_json import dumps
from gptjax.inference.chat import LINES
from gptjax.inference.generation_config import ROLES, GenerationConfig
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


def tokenizer_settings(tokenizer: Tokenizer, generation_config: GenerationConfig, rows: int) -> dict[str, Any]:
    """The settings for a model of so many rows, its chat template among them.

    Raises ValueError naming what of the tokenizer, or of how texts begin, end and talk, a GGUF file cannot say.
    """
    rules = json.loads(tokenizer.content)
    pre = _cut_of(rules)
    special, added = {}, {}
    for token in rules["added_tokens"]:
        if flags := [flag for flag in ("lstrip", "rstrip", "single_word") if token[flag]]:
            raise ValueError(f"export: GGUF cannot say {flags[0]} of the token {token['content']!r}")
        (special if token["special"] else added)[token["id"]] = token["content"]
    names = {id: name for name, id in rules["model"]["vocab"].items()} | special | added
    tokens = [names.get(id, f"<|unused {id}|>") for id in range(rows)]
    types = [
        CONTROL if id in special else USER_DEFINED if id in added else NORMAL if id in names else UNUSED
        for id in range(rows)
    ]
    if len(set(tokens)) != rows:
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"export: the vocabulary has {twice!r} twice, which GGUF cannot say")
    template = generation_config.chat_template
    if template is None and generation_config.begins_with_bos:
        template = LINES  # how a model of ours talks; it begins with BOS
    others = re.findall(r"\b(?:pad|unk|sep|cls|mask)_token\b", template or "")
    others += [
        name for name in ("bos_token", "eos_token") if name not in generation_config.names and name in (template or "")
    ]
    if others:
        raise ValueError(f"export: the chat template asks for {others[0]}, which readers of GGUF do not give it")
    return {
        f"{KEY}model": "gpt2",
        f"{KEY}pre": pre,
        f"{KEY}tokens": tokens,
        f"{KEY}token_type": types,
        f"{KEY}merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in rules["model"]["merges"]],
        **{f"{KEY}{'padding' if role == 'pad' else role}_token_id": getattr(tokenizer, role) for role in ROLES},
        **{f"{KEY}{name}_token_id": id for name, id in _further_ends(tokenizer, generation_config).items()},
        f"{KEY}add_bos_token": generation_config.begins_with_bos,
        f"{KEY}add_eos_token": False,
        f"{KEY}add_space_prefix": False,
        **({} if template is None else {"tokenizer.chat_template": template}),
    }


def _cut_of(rules: Mapping[str, Any]) -> str:
    """Of CUTS, the way that these rules cut words. Raises ValueError naming what differs from all of them."""
    model = rules["model"]
    decoder = (rules["decoder"] or {}).get("type")
    if (model["type"], decoder) != ("BPE", "ByteLevel"):
        raise ValueError(f"export: GGUF takes a byte-level BPE; this tokenizer is {model['type']}, read by {decoder}")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(field):
            raise ValueError(f"export: GGUF cannot say {field}={model[field]!r} of a tokenizer")
    found = _plain(rules["pre_tokenizer"]), _plain(rules["normalizer"])
    for name, (cut, normalizer) in CUTS.items():
        known = tokenizers.Tokenizer(models.BPE())
        known.pre_tokenizer = cut
        if normalizer is not None:
            known.normalizer = normalizer
        fields = json.loads(known.to_str())
        if found == (_plain(fields["pre_tokenizer"]), _plain(fields["normalizer"])):
            return name
    raise ValueError(
        f"export: the tokenizer cuts words in a way for which GGUF has no name known here ({', '.join(CUTS)}): "
        f"{dumps(found)[:120]}"
    )


def _plain(rule: Any) -> Any:
    """A rule without the field that changes no id."""
    if isinstance(rule, list):
        return [_plain(one) for one in rule]
    if not isinstance(rule, dict):
        return rule
    return {name: _plain(value) for name, value in rule.items() if name != "trim_offsets"}


def _further_ends(tokenizer: Tokenizer, generation_config: GenerationConfig) -> dict[str, int]:
    """The ends of texts beside EOS, of which GGUF has two: of a turn and of a message."""
    ends = sorted(generation_config.ends - {tokenizer.eos})
    if tokenizer.eos not in generation_config.ends or len(ends) > 2:
        raise ValueError(
            f"export: texts end with the tokens {sorted(generation_config.ends)}; GGUF can say EOS, here "
            f"{tokenizer.eos}, and at most two others"
        )
    return dict(zip(("eot", "eom"), ends, strict=False))
