"""What a GGUF file says of a model of ours, and in which types of weights; or why it cannot."""

from typing import TYPE_CHECKING, Any

from gptjax.exchange.gguf_blocks import SMALL
from gptjax.exchange.gguf_model import settings_of, shapes_of
from gptjax.exchange.gguf_tokenizer import tokenizer_settings
from gptjax.spelling import did_you_mean

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel
    from gptjax.runs.rundir import Run

# By dtype: the number that general.file_type has for it, and by how much scores may differ from the source's: the root
# of the mean square difference, in standard deviations of the source's scores.
DTYPES = {
    "f32": (0, 1e-4), "f16": (1, 0.02), "bf16": (32, 0.1), "q8_0": (7, 0.1), "q4_0": (2, 1.0), "q4_1": (3, 1.0),
}  # fmt: skip
QUANTIZATION_VERSION = 2  # of the blocks


def check_dtype(dtype: Any) -> str:
    """The name, in small letters. Raises ValueError where there is no such type of weights."""
    found = str(dtype).lower()
    if found not in DTYPES:
        raise ValueError(f"dtype={dtype!r}{did_you_mean(found, DTYPES)}")
    return found


def described(
    model: "LanguageModel | Run", name: str, dtype: str
) -> tuple[dict[str, Any], list[tuple[str, str, tuple[int, ...]]]]:
    """The settings, and name, type and shape of every tensor; of a run before its weights are read.

    Raises ValueError where GGUF cannot say them.
    """
    config, generation_config = model.config, model.generation_config
    if config.lora is not None:
        raise ValueError("export: the model has adapters beside its weights; gptjax.load merges them")
    if generation_config.encodes_prompt:
        raise ValueError(
            "export: this model reads a conversation from both sides before it answers, which no reader of GGUF does; "
            "a folder says so to gptjax"
        )
    quantised = dtype.startswith("q")
    settings = settings_of(config) | {
        "general.type": "model",
        "general.name": name,
        "general.file_type": DTYPES[dtype][0],
        **({"general.quantization_version": QUANTIZATION_VERSION} if quantised else {}),
        **tokenizer_settings(model.tokenizer, generation_config, config.vocabulary),
    }
    entries = [(tensor, _kind(tensor, shape, dtype), shape) for tensor, shape in shapes_of(config).items()]
    for tensor, kind, shape in entries:
        if kind.startswith("Q") and shape[-1] % SMALL:
            raise ValueError(
                f"export: the rows of tensor {tensor!r} have {shape[-1]} values, no multiple of {SMALL}, so that they "
                f"are not whole blocks of {kind}; dtype f16 or bf16 takes any width"
            )
    return settings, entries


def _kind(name: str, shape: tuple[int, ...], dtype: str) -> str:
    if len(shape) == 1 or name.startswith("position_embd"):
        return "F32"
    if dtype in ("q4_0", "q4_1") and name.startswith(("token_embd", "output.")):
        return "Q8_0"  # every score is made of them
    return dtype.upper()
