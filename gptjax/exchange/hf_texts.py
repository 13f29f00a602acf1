"""The small files of a folder in Hugging Face's layout: config, tokenizer, special tokens, chat template, README."""

import json
from typing import Any

from gptjax.chat import LINES
from gptjax.config import ModelConfig
from gptjax.exchange.hf_config import fields_of
from gptjax.habits import Habits
from gptjax.tokenizer import Tokenizer

README = """# A language model

Exported by gptjax for Hugging Face's `{kind}`. `export_proof.json` lists every other file with its SHA-256, and says
how the export was compared with the model that it was made from.

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (auto.from_pretrained(".") for auto in (AutoModelForCausalLM, AutoTokenizer))

## What a plain loader ignores

It reads forwards only. A model that was also trained to look at both sides of a masked word, or of a prefix, does so in
gptjax alone: `gptjax.load(".")` reads this folder too.
"""
HEADS = """
It has no class heads. Those below are in `class_heads.safetensors`: the scores of a head's classes are
`hidden @ NAME.weight.T + NAME.bias`, of the hidden state after the last norm at the position that is asked about. The
classes, in order, are also in `class_heads.json`.

"""


def texts(config: ModelConfig, tokenizer: Tokenizer, habits: Habits) -> dict[str, str]:
    """File name -> content. Raises ValueError where the model is of no class of Hugging Face."""
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    roles = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos, "pad_token": tokenizer.pad}
    if tokenizer.mask is not None:
        roles["mask_token"] = tokenizer.mask
    special = {role: tokenizer.token(id) for role, id in roles.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "model_max_length": config.T,
        "clean_up_tokenization_spaces": False,
        "chat_template": LINES if habits.chat_template is None else habits.chat_template,
    }
    ends = sorted(habits.ends)
    found = {
        "config.json": fields_of(config) | ids,
        "generation_config.json": ids | {"eos_token_id": ends[0] if len(ends) == 1 else ends},
        "tokenizer_config.json": settings,
        "special_tokens_map.json": special,
    }
    return {name: _json(content) for name, content in found.items()} | {
        "tokenizer.json": tokenizer.for_others(habits.begins_with_bos),
        "README.md": _readme(config),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _readme(config: ModelConfig) -> str:
    heads = "".join(f"- `{head.name}`: {', '.join(head.classes)}\n" for head in config.class_heads)
    return README.format(kind=fields_of(config)["architectures"][0]) + (HEADS + heads if heads else "")
