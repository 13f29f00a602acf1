"""The small files of a folder in Hugging Face's layout: config, tokenizer, special tokens, chat template, README."""

import json
from typing import TYPE_CHECKING, Any

from gptjax.exchange.hf_config import fields_of
from gptjax.inference.chat import LINES
from gptjax.inference.generation_config import ENCODES
from gptjax.runs.rundir import CREDIT

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

README = """# A language model

{parameters:,} parameters, a context of {T} tokens{step}; exported by gptjax for Hugging Face's `{kind}`.
`export_proof.json` lists every other file with its SHA-256, and says how the export was compared with the model that it
was made from.

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (auto.from_pretrained(".") for auto in (AutoModelForCausalLM, AutoTokenizer))

## What a plain loader ignores

It reads forwards only. A model that was also trained to look at both sides of a masked word, or of a prefix, does so in
gptjax alone: `gptjax.load(".")` reads this folder too.
"""
PROGRAMS = """
## Without either library

    gptjax export . programs --as stablehlo
    python programs/run.py "A text" 20

writes two programs, their weights and a loader that needs JAX, and for text the package tokenizers.
"""
LINES_END = """
## How it talks

Its chat template writes a conversation as lines of A, you, and B, the model. Its answer ends where its line does: stop
there, for it may go on as A.
"""
CREDITED = """
## The texts that it has read

Their authors and licences are in `ATTRIBUTION.md`, which goes wherever the model goes.
"""
HEADS = """
It has no class heads. Those below are in `class_heads.safetensors`: the scores of a head's classes are
`hidden @ NAME.weight.T + NAME.bias`, of the hidden state after the last norm at the position that is asked about, or of
the mean of a text's states that a head's `pool` says, which `NAME.query` weighs where it is learnt. The classes, in
order, how a head reads a text, and the `mean` and `scale` of a number are in `class_heads.json`.

"""


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
        "README.md": _readme(model, template),
        **({} if model.credit is None else {CREDIT: model.credit}),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _readme(model: "LanguageModel", template: str | None) -> str:
    config = model.config
    step = "" if model.step is None else f", step {model.step}"
    kind = fields_of(config)["architectures"][0]
    heads = "".join(f"- `{head.name}`: {', '.join(head.classes)}\n" for head in config.class_heads)
    return "".join([
        README.format(kind=kind, parameters=config.parameters, T=config.T, step=step),
        HEADS + heads if heads else "",
        "" if model.generation_config.encodes_prompt else PROGRAMS,
        LINES_END if template == LINES else "",
        CREDITED if model.credit is not None else "",
    ])  # fmt: skip
