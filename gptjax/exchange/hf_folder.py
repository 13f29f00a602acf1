"""A folder in Hugging Face's layout, read: config, weights, tokenizer, special tokens, chat template. Without JAX.

Settings of `generation_config.json` other than the tokens that end a text are kept, and left to whoever generates.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from gptjax.config import ModelConfig
from gptjax.exchange.heads_file import read_class_heads, read_heads
from gptjax.exchange.hf_config import GPT2, QWEN2, QWEN3, SPECIAL, class_of, read_config
from gptjax.exchange.hf_params import read_params
from gptjax.exchange.imported_model import ImportedModel, check_one_model
from gptjax.exchange.safetensors_file import read_weights
from gptjax.files.bounded_files import naming, read_json, read_text
from gptjax.inference.chat import LINES
from gptjax.inference.generation_config import ENCODES, GenerationConfig
from gptjax.text.tokenizer import Tokenizer, token_name

CONFIG, GENERATION, SETTINGS = "config.json", "generation_config.json", "tokenizer_config.json"
RULES, NAMES, TEMPLATE = "tokenizer.json", "special_tokens_map.json", "chat_template.jinja"
LARGEST_TOKENIZER = 128 * 2**20  # bytes; one of 256,000 tokens has 34 million
# Classes of transformers that obey `add_prefix_space`; others leave it to tokenizer.json.
PREFIXING = ("GPT2Tokenizer", "GPTNeoXTokenizer", "CodeGenTokenizer", "RobertaTokenizer", "Qwen2Tokenizer")
CLASSES = {
    GPT2: "GPT2Tokenizer",
    QWEN2: "Qwen2Tokenizer",
    QWEN3: "Qwen2Tokenizer",
}  # by the model's class, where none is named
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_folder(folder: Path) -> ImportedModel:
    """Raises ValueError, in one line, naming the file and what in it is missing, damaged or not supported."""
    config, tokenizer, generation_config = read_description(folder)
    bank = read_class_heads(folder, config)
    found = read_weights(folder)
    with naming(folder):
        return ImportedModel(
            config=config,
            tokenizer=tokenizer,
            generation_config=generation_config,
            params=read_params(config, found) | bank,
        )


def read_description(folder: Path) -> tuple[ModelConfig, Tokenizer, GenerationConfig]:
    """All but the weights: shape with class heads, tokenizer, how it talks. Raises as `read_folder`."""
    config, special = read_config(folder / CONFIG)
    settings, generation = _optional(folder / SETTINGS), _optional(folder / GENERATION)
    names = _names(folder, settings)
    tokenizer, begins_with_bos = _tokenizer(folder, settings, names, special, config)
    sources = [fields for fields in (generation, special) if fields.get("eos_token_id") is not None]
    ends = _ids(folder, sources[0]["eos_token_id"] if sources else tokenizer.eos)
    within = frozenset(id for id in ends if 0 <= id < config.vocabulary)
    _warn_of_ids(folder, {**special, "eos_token_id": sorted(ends)}, config.vocabulary)
    generation_config = GenerationConfig(
        ends=within or frozenset({tokenizer.eos}),
        begins_with_bos=begins_with_bos,
        chat_template=_chat_template(folder, settings),
        names=names,
        encodes_prompt=generation.get(ENCODES) is True,
        generation={name: value for name, value in generation.items() if name not in (*SPECIAL, ENCODES)},
    )
    with naming(folder):
        check_one_model(config, tokenizer, generation_config)
    return dataclasses.replace(config, class_heads=read_heads(folder)), tokenizer, generation_config


def _warn_of_ids(folder: Path, special: Mapping[str, Any], rows: int) -> None:
    """Tells of ids that no token of the model has; they are left out, as whoever generates never meets them."""
    for name, given in special.items():
        for id in given if isinstance(given, list) else [given]:
            if type(id) is int and id >= rows:
                warnings.warn(
                    f"{folder}: {name} has {id}, beyond the model's vocabulary of {rows}; left out", stacklevel=4
                )


def _tokenizer(
    folder: Path,
    settings: Mapping[str, Any],
    names: dict[str, str],
    special: Mapping[str, Any],
    config: ModelConfig,
) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether its texts begin with BOS. A PAD that is no token is taken out of the names.

    What it puts round a text is the affair of `tokenizer.json` alone, as transformers has it since version 5; but for
    the space in front of a text, see `_prefix`.
    """
    if not (folder / RULES).exists():
        raise ValueError(f"{folder / RULES}: is missing; other kinds of tokenizer can be saved as one by transformers")
    text = read_text(folder / RULES, LARGEST_TOKENIZER)
    with naming(folder / RULES), _library():
        rules = tokenizers.Tokenizer.from_str(text)
        _prefix(rules, settings, config)
    with naming(folder / SETTINGS):
        _add_listed(rules, settings, config.vocabulary)
    if (pad := names.get("pad_token")) is not None and rules.token_to_id(pad) is None:
        warnings.warn(
            f"{folder}: pad_token {pad[:60]!r} is no token of the model; rows are padded without", stacklevel=4
        )
        del names["pad_token"]
    with naming(folder / RULES), _library():
        roles = {}
        for role in ("bos", "eos", "pad"):
            id = special.get(f"{role}_token_id")
            of_id = token_name(rules, id) if type(id) is int and 0 <= id < 2**31 else ""  # -1 stands for none
            if name := names.get(f"{role}_token") or of_id:
                roles[role] = name
        tokenizer = Tokenizer(rules, roles)
        plain, whole = (rules.encode("a", add_special_tokens=round_it).ids for round_it in (False, True))
        if whole not in (plain, [tokenizer.bos, *plain]):
            raise ValueError(f"puts more than BOS round a text: 'a' becomes {whole}; only BOS in front is supported")
    return tokenizer, whole != plain


def _prefix(rules: tokenizers.Tokenizer, settings: Mapping[str, Any], config: ModelConfig) -> None:
    """Puts a space in front of a text, or none, as `tokenizer_config.json` says where its class obeys that."""
    named = settings.get("tokenizer_class") or CLASSES.get(class_of(config), "")
    wanted, cut = settings.get("add_prefix_space") or False, rules.pre_tokenizer
    if str(named).removesuffix("Fast") not in PREFIXING:
        return
    if isinstance(cut, pre_tokenizers.ByteLevel):
        cut.add_prefix_space = bool(wanted)
        rules.pre_tokenizer = cut  # pyright: ignore[reportAttributeAccessIssue]
    elif wanted:
        raise ValueError(
            f"{SETTINGS} has add_prefix_space true, which is only supported where words are cut by ByteLevel"
        )


def _add_listed(rules: tokenizers.Tokenizer, settings: Mapping[str, Any], rows: int) -> None:
    """Adds the tokens that only `added_tokens_decoder` lists, next in order; those beyond the model are left out."""
    listed = _object(settings, "added_tokens_decoder")
    for id in sorted(listed, key=lambda id: int(id) if id.isdecimal() else -1):
        entry = listed[id]
        name = entry.get("content") if isinstance(entry, dict) else None
        if id.isdecimal() and name and int(id) < 2**31:
            if not token_name(rules, int(id)) and int(id) >= rows:
                warnings.warn(f"token {name[:60]!r} has id {id}, beyond the model's vocabulary of {rows}", stacklevel=5)
                continue
            if not token_name(rules, int(id)) and int(id) == rules.get_vocab_size() and rules.token_to_id(name) is None:
                flags = {flag: entry.get(flag) is True for flag in ("single_word", "lstrip", "rstrip", "normalized")}
                token = tokenizers.AddedToken(name, special=entry.get("special") is True, **flags)
                (rules.add_special_tokens if token.special else rules.add_tokens)([token])
        if not id.isdecimal() or not name or int(id) >= 2**31 or token_name(rules, int(id)) != name:
            raise ValueError(f"added_tokens_decoder has {str(name)[:60]!r} as id {id[:20]}, {RULES} has not")


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Whatever the library of tokenizers raises as a ValueError; its panics are not even of the class Exception."""
    try:
        yield
    except (ValueError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"is not a tokenizer that can be used: {error}") from error


def _names(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that the folder names, as bos_token, eos_token and so on."""
    found: dict[str, str] = {}
    for file, fields in ((NAMES, _optional(folder / NAMES)), (SETTINGS, settings)):  # the latter's count
        for key in (f"{role}_token" for role in ROLES):
            value = fields.get(key)
            name = value.get("content") if isinstance(value, dict) else value
            if not isinstance(name, str | None):
                raise ValueError(f"{folder / file}: {key} is {str(value)[:60]!r}; must be a text")
            if name is not None:
                found[key] = name
    return {key: found[key] for role in ROLES if (key := f"{role}_token") in found}


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The Jinja text; None where there is none, or where it writes our own lines. It is not run here."""
    path, template = folder / TEMPLATE, settings.get("chat_template")
    if os.path.lexists(path):  # a link to nowhere is no absent file
        template = read_text(path)
    if isinstance(template, list):  # several, by name
        entries = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        if len(entries) != 1:
            raise ValueError(f"{folder / SETTINGS}: of {len(template)} chat templates, not one is named 'default'")
        template = entries[0].get("template")
    if not isinstance(template, str | None):
        raise ValueError(f"{folder / SETTINGS}: chat_template is {str(template)[:60]!r}, not a text")
    return None if template in (LINES, "") else template


def _optional(path: Path) -> dict[str, Any]:
    """The fields of a JSON file, none where it is absent."""
    return read_json(path) if os.path.lexists(path) else {}


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object, empty where it is absent."""
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {str(value)[:60]!r}; must be an object")
    return value


def _ids(folder: Path, ids: Any) -> frozenset[int]:
    listed = ids if isinstance(ids, list) else [ids]
    if not listed or not all(type(id) is int for id in listed):
        raise ValueError(f"{folder}: eos_token_id is {str(ids)[:60]!r}; must be a token id or a list of them")
    return frozenset(listed)
