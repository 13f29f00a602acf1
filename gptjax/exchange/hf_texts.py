"""The small files of a folder in Hugging Face's layout: config, tokenizer, special tokens, chat template, README."""

import json
from typing import TYPE_CHECKING, Any

from gptjax.exchange.hf_config import fields_of
from gptjax.exchange.model_card import model_card
from gptjax.inference.chat import LINES
from gptjax.inference.generation_config import ENCODES
from gptjax.runs.rundir import CREDIT

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel


def texts(model: "LanguageModel") -> dict[str, str]:
    """File name -> content. Raises ValueError where the model is of no class of Hugging Face."""
    config, tokenizer, generation_config = model.config, model.tokenizer, model.generation_config
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    lines = LINES if generation_config.begins_with_bos else None  # they begin with BOS
    template = lines if generation_config.chat_template is None else generation_config.chat_template
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **generation_config.names,
        "model_max_length": config.T,
        "clean_up_tokenization_spaces": False,
        **({} if template is None else {"chat_template": template}),
    }
    ends = sorted(generation_config.ends)
    found = {
        "config.json": fields_of(config) | ids,
        "generation_config.json": {
            **generation_config.generation,
            **ids,
            "eos_token_id": ends[0] if len(ends) == 1 else ends,
            **({ENCODES: True} if generation_config.encodes_prompt else {}),
        },
        "tokenizer_config.json": settings,
        "special_tokens_map.json": dict(generation_config.names),
    }
    return {name: _json(content) for name, content in found.items()} | {
        "tokenizer.json": tokenizer.for_others(generation_config.begins_with_bos),
        "README.md": model_card(model, template),
        **({} if model.credit is None else {CREDIT: model.credit}),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
