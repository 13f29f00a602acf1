"""`config.json` of a Hugging Face model <-> the shape of ours. Does not import JAX.

Every field is understood, or known to change nothing that is computed here (HARMLESS), or refused by its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.config import ModelConfig, RopeScaling
from gptjax.files.bounded_files import naming, read_json

GPT2, LLAMA, MISTRAL = "GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM"
QWEN2, QWEN3, SMOLLM3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM", "SmolLM3ForCausalLM"
MODEL_TYPES = {
    GPT2: "gpt2", LLAMA: "llama", MISTRAL: "mistral", QWEN2: "qwen2", QWEN3: "qwen3", SMOLLM3: "smollm3",
}  # fmt: skip
# What of a model of ours its class does not compute, besides bent scores.
LACKS = {
    GPT2: ("window",),
    LLAMA: (),
    MISTRAL: ("attention_bias", "mlp_bias"),
    QWEN2: ("mlp_bias", "nope_layers"),
    QWEN3: ("mlp_bias", "qkv_bias", "nope_layers"),
    SMOLLM3: (),
}
GEMMA = (
    "Gemma is not read: it multiplies its embeddings and gates by GELU, and from version 2 on it has two more norms a "
    "layer and a window in some layers alone"
)
REQUIRED = object()


class Field(NamedTuple):
    """A field of theirs that is one of ours."""

    theirs: str
    ours: str
    kind: type
    default: Any = REQUIRED  # what Hugging Face takes where it is absent or null


_ROTARY = (
    Field("vocab_size", "vocabulary", int),
    Field("max_position_embeddings", "T", int),
    Field("hidden_size", "D", int),
    Field("num_hidden_layers", "L", int),
    Field("num_attention_heads", "N", int),
    Field("intermediate_size", "F", int),
    Field("rms_norm_eps", "norm_epsilon", float, 1e-6),
)
_BIASES = (Field("attention_bias", "attention_bias", bool, False), Field("mlp_bias", "mlp_bias", bool, False))
_WIDTH, _TIED = Field("head_dim", "head_width", int, None), Field("tie_word_embeddings", "tied", bool, False)
# Hugging Face takes some number of its own where that of key heads is absent, and N where it is null: no file means
# either, but for Llama's from before there were any
_KEYS = Field("num_key_value_heads", "K", int)
FIELDS = {
    GPT2: (
        Field("vocab_size", "vocabulary", int),
        Field("n_positions", "T", int),
        Field("n_embd", "D", int),
        Field("n_layer", "L", int),
        Field("n_head", "N", int),
        Field("n_inner", "F", int, None),  # None = 4 D
        Field("layer_norm_epsilon", "norm_epsilon", float, 1e-5),
        Field("tie_word_embeddings", "tied", bool, True),
    ),
    LLAMA: (*_ROTARY, _WIDTH, _TIED, *_BIASES, Field("num_key_value_heads", "K", int, None)),  # None = N
    MISTRAL: (*_ROTARY, _WIDTH, _TIED, _KEYS),
    QWEN2: (*_ROTARY, _WIDTH, _TIED, _KEYS),
    QWEN3: (*_ROTARY, Field("head_dim", "head_width", int, 128), _TIED, _KEYS, _BIASES[0]),
    SMOLLM3: (*_ROTARY, _WIDTH, Field("tie_word_embeddings", "tied", bool, True), _KEYS, *_BIASES),
}
# Fields of which only these values are computed here.
ONLY: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "hidden_act": ("silu", "swish"),  # likewise
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "chunk_size_feed_forward": (0,),
    "partial_rotary_factor": (1.0, None),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "quantization_config": (None,),
    "auto_map": (None,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "torchscript": (False,),
    "use_bfloat16": (False,),
}
# How text is written, as transformers has it where nothing is said; what else is wanted is in generation_config.json.
WRITING: dict[str, Any] = {
    "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1,
    "num_beams": 1, "num_return_sequences": 1, "remove_invalid_values": False, "repetition_penalty": 1.0,
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
}  # fmt: skip
ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
WINDOW = ("use_sliding_window", "max_window_layers", "layer_types")
FULL, SLIDING = "full_attention", "sliding_attention"
THETAS = {SMOLLM3: 2_000_000.0}  # where a file says nothing
MOST_LAYERS = 10_000  # that a file need not list
NOPE = ("no_rope_layers", "no_rope_layer_interval")
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
HARMLESS = frozenset(
    # who wrote it and how it is stored; what training and other heads take; in which order the same sums are taken
    """
    architectures model_type transformers_version _name_or_path torch_dtype dtype use_cache is_decoder
    output_attentions output_hidden_states return_dict initializer_range attention_dropout attn_pdrop embd_pdrop
    resid_pdrop n_ctx id2label label2id problem_type summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj task_specific_params reorder_and_upcast_attn pretraining_tp
    is_llama_config transformers.js_config _attn_implementation_autoset gradient_checkpointing n_special
    predict_special_tokens output_past _num_labels max_sequence_length unsloth_version unsloth_fixed
    tokenizer_class finetuning_task tf_legacy_loss output_scores return_dict_in_generate use_return_dict sep_token_id
    _commit_hash attn_implementation _attn_implementation _attn_implementation_internal name_or_path
    """.split()  # noqa: SIM905
)


def read_config(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of a `config.json`, and its bos_token_id, eos_token_id and pad_token_id as far as it has them.

    Raises ValueError naming the file and the field that is missing, malformed, or asks for what is not computed here.
    """
    fields = read_json(path)
    with naming(path):
        return model_of(fields)


def model_of(fields: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """As `read_config`, of the fields themselves."""
    classes = fields.get("architectures")
    if not isinstance(classes, list) or len(classes) != 1 or classes[0] not in list(MODEL_TYPES):
        why = f": {GEMMA}" if str(classes).startswith("['Gemma") else ""
        raise ValueError(f"architectures is {classes!r}{why}; this can be one of {[[name] for name in MODEL_TYPES]}")
    kind = classes[0]
    if fields.get("model_type") != MODEL_TYPES[kind]:
        raise ValueError(f"model_type is {fields.get('model_type')!r}; of a {kind} it is {MODEL_TYPES[kind]!r}")
    _refuse_unsupported(kind, fields)
    shape = {field.ours: _value(fields, field) for field in FIELDS[kind]}
    if kind == GPT2:
        shape |= {"family": "gpt2", "activation": "gelu", "qk_norm": False, "K": shape["N"]}
        shape["F"] = 4 * shape["D"] if shape["F"] is None else shape["F"]
    else:
        shape |= {"qk_norm": kind == QWEN3, "qkv_bias": kind == QWEN2}
        shape["K"] = shape["N"] if shape["K"] is None else shape["K"]
        shape["rope_theta"], shape["rope_scaling"] = _rope(fields, THETAS.get(kind, 10_000.0))
        if kind == SMOLLM3:
            shape["nope_layers"] = _without_positions(fields, shape["L"])
        if shape["head_width"] is not None and shape["head_width"] * shape["N"] == shape["D"]:
            shape["head_width"] = None  # as a model of ours says it
    shape["window"] = _window(kind, fields, shape)
    return ModelConfig(**shape), {name: fields[name] for name in SPECIAL if fields.get(name) is not None}


def class_of(config: ModelConfig) -> str:
    """Their class of a model of ours."""
    if config.family == "gpt2":
        return GPT2
    if config.qk_norm:
        return QWEN3
    if config.qkv_bias:
        return QWEN2
    return SMOLLM3 if config.nope_layers else MISTRAL if config.reach else LLAMA


def fields_of(config: ModelConfig) -> dict[str, Any]:
    """The fields of `config.json` for a model of ours; both the old and the new names of the rotary settings.

    Raises ValueError naming what no class of Hugging Face computes.
    """
    kind = class_of(config)
    none = {"window": None, "nope_layers": (), "attention_cap": None, "logit_cap": None}
    absent = {name: none.get(name, False) for name in (*LACKS[kind], "attention_cap", "logit_cap")}
    for name, wanted in {**absent, "activation": "gelu" if kind == GPT2 else "swiglu"}.items():
        if getattr(config, name) != wanted:
            raise ValueError(f"export: {kind} cannot have model.{name}={getattr(config, name)!r}, only {wanted!r}")
    if kind == LLAMA and config.D % config.N:
        raise ValueError(f"export: {kind} wants model.D={config.D} to be a multiple of model.N={config.N} heads")
    ours = {"architectures": [kind], "model_type": MODEL_TYPES[kind], "torch_dtype": "float32"}
    shape = {field.theirs: getattr(config, field.ours) for field in FIELDS[kind]}
    if kind == GPT2:
        dropout = {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": 0.0}
        return ours | shape | dropout | {"activation_function": "gelu_new"}
    rope: dict[str, Any] = {"rope_type": "default"}
    if (scaling := config.rope_scaling) is not None:
        rope = {"rope_type": scaling.kind, "factor": float(scaling.factor)}
        if scaling.kind == "llama3":
            rope |= {"low_freq_factor": float(scaling.low_turns), "high_freq_factor": float(scaling.high_turns)}
            rope |= {"original_max_position_embeddings": scaling.original_T}
    if kind == MISTRAL:
        shape["sliding_window"] = config.reach
    elif config.reach is not None:
        shape |= {"use_sliding_window": True, "sliding_window": config.reach, "max_window_layers": 0}
        shape["layer_types"] = [SLIDING] * config.L
    if kind == SMOLLM3:
        shape["no_rope_layers"] = [int(layer not in config.nope_layers) for layer in range(config.L)]
    return ours | shape | {
        "head_dim": config.H,
        "hidden_act": "silu",
        "rope_theta": float(config.rope_theta),
        "rope_scaling": None if scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": float(config.rope_theta)},
    }  # fmt: skip


def _refuse_unsupported(kind: str, fields: Mapping[str, Any]) -> None:
    known = {field.theirs for field in FIELDS[kind]} | {"sliding_window", *ROPE, *SPECIAL}
    known |= {*(() if kind == MISTRAL else WINDOW), *(NOPE if kind == SMOLLM3 else ())}
    for name, value in fields.items():
        if name in ONLY:
            if value not in ONLY[name]:
                raise ValueError(f"field {name!r} is {value!r}; only {ONLY[name][0]!r} is supported")
        elif name in WRITING:
            if value not in (WRITING[name], None):
                raise ValueError(
                    f"field {name!r} is {value!r}; only {WRITING[name]!r} is supported: generation_config.json is the "
                    f"place for it"
                )
        elif name not in known | HARMLESS and value is not None:  # null asks for nothing
            raise ValueError(f"field {name!r}, here {str(value)[:60]!r}, is not supported")


def _without_positions(fields: Mapping[str, Any], L: int) -> tuple[int, ...]:
    """The layers of SmolLM3 without rotary positions: 0 in `no_rope_layers`, else the last of every so many."""
    turned, interval = fields.get("no_rope_layers"), fields.get("no_rope_layer_interval", 4)
    if turned is None:
        if type(interval) is not int or interval < 1:
            raise ValueError(f"field 'no_rope_layer_interval' is {interval!r:.60}; must be a whole number above 0")
        if L > MOST_LAYERS:
            raise ValueError(f"field 'num_hidden_layers' is {L}; at most {MOST_LAYERS} are read of a {SMOLLM3}")
        return tuple(range(interval - 1, L, interval))
    if not isinstance(turned, list) or len(turned) < L or not all(flag in (0, 1) for flag in turned):
        raise ValueError(f"field 'no_rope_layers' is {str(turned)[:60]}; must be a list of 1 or 0, one a layer of {L}")
    return tuple(layer for layer in range(L) if not turned[layer])


def _window(kind: str, fields: Mapping[str, Any], shape: Mapping[str, Any]) -> int | None:
    """How far all layers look, tokens; None = at the whole row. Raises ValueError where some look further than others.

    Source: transformers, configuration_mistral.py, configuration_qwen2.py, configuration_smollm3.py: what is taken
    where nothing is said, and which layers then have the window.
    """
    for name, wanted in {"use_sliding_window": bool, "sliding_window": int, "max_window_layers": int}.items():
        if type(found := fields.get(name)) not in (wanted, type(None)):
            raise ValueError(f"field {name!r} is {str(found)[:60]!r}; must be of type {wanted.__name__}, or null")
    used, T, L = fields.get("use_sliding_window"), shape["T"], shape["L"]
    window = fields.get("sliding_window", 4096 if kind in (MISTRAL, QWEN2, QWEN3) else None)
    if kind in (GPT2, LLAMA) and window is not None and used is not False:
        raise ValueError(f"field 'sliding_window' is {window!r}; only null is supported: {kind} has no windows")
    if kind != MISTRAL and not used:
        window = None
    types = fields.get("layer_types")
    if types is None:  # a count of layers may be anything: nothing is made for each of them here
        first = 28 if fields.get("max_window_layers") is None else fields["max_window_layers"]
        slide = {MISTRAL: L, SMOLLM3: len(shape.get("nope_layers", ()))}.get(kind, max(0, L - first))
        some, every = window is not None and slide > 0, slide >= L
    elif isinstance(types, list) and len(types) == L and set(map(str, types)) <= {FULL, SLIDING}:
        some, every = SLIDING in types, FULL not in types
    else:
        raise ValueError(f"field 'layer_types' is {str(types)[:80]}; must be {FULL!r} or {SLIDING!r} for {L} layers")
    if some and window is None:
        raise ValueError(f"field 'layer_types' is {str(types)[:80]}, but 'sliding_window' says nothing of how far")
    if some and not every and window < T:
        raise ValueError(
            f"field 'layer_types': some layers look {window} tokens back, some at all {T}; only one window for all "
            f"layers is supported"
        )
    return window if some and window < T else None


def _value(fields: Mapping[str, Any], field: Field) -> Any:
    value = fields.get(field.theirs)
    if value is None:
        if field.default is REQUIRED:
            raise ValueError(f"field {field.theirs!r} is missing")
        return field.default
    fits = type(value) in ((int, float) if field.kind is float else (field.kind,))
    if not fits:
        raise ValueError(f"field {field.theirs!r} is {str(value)[:60]!r}; must be of type {field.kind.__name__}")
    if field.kind is not bool and not 0 < value < 2**31:
        raise ValueError(f"field {field.theirs!r} is {value}; must be above 0 and below 2**31")
    return field.kind(value)


def _rope(fields: Mapping[str, Any], absent: float) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) from the old names, `rope_theta` and `rope_scaling`, or the new one, `rope_parameters`.

    `absent`: theta where none is given. Source: documentation of transformers, "Utilities for Rotary Embedding".
    """
    new, old, theta = (fields.get(name) for name in ("rope_parameters", "rope_scaling", "rope_theta"))
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(fields.get(name), dict | None):
            raise ValueError(f"field {name!r} is {str(fields[name])[:60]!r}; must be an object or null")

    def plain(settings: Mapping[str, Any] | None) -> dict[str, Any]:
        found = dict(settings or {})
        kinds = [found[name] for name in ("type", "rope_type") if found.get(name) is not None]
        if kinds[1:] and kinds[0] != kinds[1]:
            raise ValueError(f"rotary settings: type is {kinds[0]!r}, but rope_type {kinds[1]!r}")
        found["rope_type"] = found.pop("type", None) or found.get("rope_type") or "default"
        return ({} if theta is None else {"rope_theta": theta}) | found

    given = plain(new or old)
    if new and old and given != plain(old):
        raise ValueError(f"field 'rope_parameters' says {given}, but 'rope_scaling' and 'rope_theta' {plain(old)}")
    if theta is not None and given["rope_theta"] != theta:
        raise ValueError(f"field 'rope_theta' is {theta!r}, but the one in 'rope_parameters' {given['rope_theta']!r}")
    kind, theta = given.pop("rope_type"), given.pop("rope_theta", absent)
    names = {
        "default": {},
        "linear": {"factor": "factor"},
        "llama3": {
            "factor": "factor",
            "low_freq_factor": "low_turns",
            "high_freq_factor": "high_turns",
            "original_max_position_embeddings": "original_T",
        },
    }
    if kind not in list(names):
        raise ValueError(f"rope_type {kind!r} is not supported; only {', '.join(map(repr, names))} are")
    if (share := given.pop("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(f"rotary setting 'partial_rotary_factor' is {share!r}; only 1.0 is supported")
    if given.keys() != names[kind].keys():
        raise ValueError(f"rope_type {kind!r} takes {list(names[kind])}, found {list(given)}")
    for name, value in {"rope_theta": theta, **given}.items():
        if type(value) not in (int, float) or not 0 < value < 2**63:
            raise ValueError(f"rotary setting {name!r} is {str(value)[:60]!r}; must be a number above 0")
    if kind == "default":
        return float(theta), None
    numbers: dict[str, Any] = {names[kind][name]: float(value) for name, value in given.items()}
    if "original_T" in numbers:
        if numbers["original_T"] % 1:
            raise ValueError(f"original_max_position_embeddings is {numbers['original_T']}; must be a whole number")
        numbers["original_T"] = int(numbers["original_T"])
    return float(theta), RopeScaling(kind=kind, **numbers)
