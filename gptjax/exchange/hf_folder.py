"""A folder in Hugging Face's layout, read: config, weights, tokenizer, special tokens, chat template. Without JAX.

Settings of `generation_config.json` other than the tokens that end a text are left to whoever generates.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from gptjax.chat import LINES
from gptjax.exchange.foreign import Foreign, check_one_model
from gptjax.exchange.heads_file import read_class_heads
from gptjax.exchange.hf_config import read_config
from gptjax.exchange.hf_params import read_params
from gptjax.exchange.safetensors_file import naming, parse_json, read_weights
from gptjax.habits import Habits
from gptjax.tokenizer import Tokenizer


def read_folder(folder: Path) -> Foreign:
    """Raises ValueError, in one line, naming the file and what in it is missing, damaged or not supported."""
    config, special = read_config(folder / "config.json")
    settings = _settings(folder, "tokenizer_config.json")
    tokenizer, begins_with_bos = _tokenizer(folder, settings, special)
    ends = (special | _settings(folder, "generation_config.json")).get("eos_token_id")
    habits = Habits(
        ends=_ids(folder, tokenizer.eos if ends is None else ends),
        begins_with_bos=begins_with_bos,
        chat_template=_chat_template(folder, settings),
    )
    with naming(folder):
        check_one_model(config, tokenizer, habits)
    heads, bank = read_class_heads(folder, config.D)
    found = read_weights(folder)
    with naming(folder):
        return Foreign(
            config=dataclasses.replace(config, class_heads=heads),
            tokenizer=tokenizer,
            habits=habits,
            params=read_params(config, found) | bank,
        )


def _tokenizer(folder: Path, settings: Mapping[str, Any], special: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether its texts begin with BOS.

    What it puts round a text is the affair of `tokenizer.json` alone, as transformers has it since version 5.
    """
    path = folder / "tokenizer.json"
    with naming(path):
        if not path.is_file():
            raise ValueError("is missing; other kinds of tokenizer can be saved as one by transformers")
        text = path.read_text(encoding="utf-8")
        try:
            rules = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"is not a tokenizer: {error}") from error
        names = {}
        for role in ("bos", "eos", "pad"):
            name, id = settings.get(f"{role}_token"), special.get(f"{role}_token_id")
            name = name.get("content") if isinstance(name, dict) else name
            if name is None and type(id) is int and 0 <= id < 2**31:
                name = rules.id_to_token(id)
            if isinstance(name, str):
                names[role] = name
        tokenizer = Tokenizer(rules, names)
        plain, whole = (rules.encode("a", add_special_tokens=round_it).ids for round_it in (False, True))
        if whole not in (plain, [tokenizer.bos, *plain]):
            raise ValueError(f"puts more than BOS round a text: 'a' becomes {whole}; only BOS in front is supported")
    return tokenizer, whole != plain


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The Jinja text; None where there is none, or where it writes our own lines. It is not run here."""
    path = folder / "chat_template.jinja"
    with naming(path):
        template = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{folder / 'tokenizer_config.json'}: chat_template is {str(template)[:60]!r}, not a text")
    return None if template == LINES else template


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """The fields of a JSON file, none where it is absent."""
    with naming(folder / name):
        return parse_json((folder / name).read_bytes()) if (folder / name).is_file() else {}


def _ids(folder: Path, ids: Any) -> frozenset[int]:
    listed = ids if isinstance(ids, list) else [ids]
    if not all(type(id) is int for id in listed):
        raise ValueError(f"{folder}: eos_token_id is {str(ids)[:60]!r}; must be a token id or a list of them")
    return frozenset(listed)
