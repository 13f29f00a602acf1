"""A model as one GGUF file, which appears whole and proven, or not at all.

The file is written in a hidden folder beside the target. It is read back as `gptjax.load` reads it, and by
`gptjax.exchange.witness.gguf_reread`, which shares nothing with what writes; one renaming makes it appear.

Why the writer is ours and not that of the package gguf: our reader has the table of types and the names already, so
that writing is some hundred lines more; whoever installs the wheel exports without a further package; and the values
are bit-equal to that package's, which a golden file of the tests and a campaign hold them to.
"""

import dataclasses
import errno
import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.export import (
    CONTINUED,
    PROMPTS,
    TOLERANCE,
    by_path,
    check_greedy,
    largest_difference,
    logits_of,
    probes,
)
from gptjax.exchange.gguf_file import content_bytes, write_file
from gptjax.exchange.gguf_model import ATTRIBUTION, read_gguf, shapes_of, tensors_of
from gptjax.exchange.gguf_settings import DTYPES, check_dtype, described
from gptjax.exchange.gguf_tokenizer import KEY, tokenizer_settings
from gptjax.exchange.witness import gguf_reread
from gptjax.files.atomic_folder import absent, appearing
from gptjax.files.file_digest import describe
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts

PROBES = (
    "I'LL pay 1234.50 $, won't you?\r\n\t now  and\u00a0then", "中文，标点。二〇二六年11月29日", "Ünïcödé — “quoted”",
    "नमस्ते दुनिया १२३", "مرحبا بالعالم ٣", "привет, мир", "🦊👩‍👩‍👧‍👦 e\u0301 é", "<|eos|><|im_end|></s><|endoftext|>",
    "def f(x):\n    return x**2  # ½ Ⅷ\n\n\n", " leading and trailing   ",
)  # fmt: skip


def export_gguf(model: LanguageModel, path: str | os.PathLike[str], dtype: str = "f32") -> dict[str, Any]:
    """Writes the file, and returns its proof.

    `dtype`: of the matrices; norms, biases and learned positions are F32, and the tables of tokens Q8_0 where the rest
    is Q4_0 or Q4_1. Output heads are left out, since a file has no place for them; the proof names them.
    Raises ValueError where the file exists, where GGUF cannot say this model or its tokenizer, where rows are not whole
    blocks, or where what was read back differs, naming the first tensor that does; OSError where the disk lacks room.
    Then nothing appears and nothing is left.
    """
    dtype, target = check_dtype(dtype), absent(path)
    settings, entries = described(model, target.stem, dtype)
    settings |= {} if model.credit is None else {ATTRIBUTION: model.credit}
    params = by_path(model.params)
    with appearing(target) as (aside, appear):
        file = aside / "model.gguf"
        _check_room(aside, sum(content_bytes(kind, shape) for _, kind, shape in entries))
        try:
            write_file(file, settings, entries, tensors_of(model.config, model.params))
            found = _prove(file, model, params, dtype)
        except ValueError as error:
            raise ValueError(f"export: {error}; nothing was written") from error
        proof = {"gptjax": importlib.metadata.version("gptjax"), "step": model.step, **found, **describe(file)}
        appear(file)
    return proof


def _check_room(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        said = f"an export of {needed / 1e6:,.0f} MB does not fit, the disk has {free / 1e6:,.0f} MB left"
        raise OSError(errno.ENOSPC, said, str(folder.parent))


def _prove(file: Path, model: LanguageModel, params: dict[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """Compares what was written with the source. Raises ValueError naming the first thing that differs."""
    from gptjax.loading import place_model  # it imports this folder's readers

    config = model.config
    own = {path: leaf for path, leaf in params.items() if not path.startswith("class_heads")}
    if (wrong := gguf_reread.first_difference(file, own, config.vocabulary)) is not None:
        raise ValueError(wrong)
    imported = read_gguf(file)
    again = place_model(imported, dtype="float32", mesh=None)
    _compare_description(again, model)
    return {
        "class": f"GGUF, {dtype}",
        "tensors_equal": len(shapes_of(config)),
        **_compare_scores(file, model, again, dtype),
        "left_out": [head.name for head in config.class_heads],
    }


def _compare_description(again: LanguageModel, model: LanguageModel) -> None:
    """The settings, as `gptjax.load` understands them, and what the tokenizer makes of texts."""
    for field in dataclasses.fields(model.config):
        name = {"head_width": "H", "window": "reach"}.get(field.name, field.name)
        found, wanted = getattr(again.config, name), getattr(model.config, name)
        if found != wanted and name not in ("dropout", "class_heads"):
            raise ValueError(f"the file says {name}={found!r}, the source {wanted!r}")
    said, source = again.generation_config, model.generation_config
    for name in ("ends", "begins_with_bos", "chat_template"):
        if (found := getattr(said, name)) != (wanted := getattr(source, name)):
            raise ValueError(f"the file's {name} is {str(found)[:200]!r}, in the source {str(wanted)[:200]!r}")
    for role in ("bos", "eos", "pad"):
        if (found := getattr(again.tokenizer, role)) != (wanted := getattr(model.tokenizer, role)):
            raise ValueError(f"the {role.upper()} token has id {found} in the file, in the source {wanted}")
    rules, wanted = (
        tokenizer_settings(one.tokenizer, one.generation_config, model.config.vocabulary) for one in (again, model)
    )
    for key in (f"{KEY}pre", f"{KEY}tokens", f"{KEY}merges"):
        if rules[key] != wanted[key]:
            raise ValueError(f"{key} is {str(rules[key])[:60]} in the file, of the source {str(wanted[key])[:60]}")
    for text in PROBES:
        if (found := again.tokenizer.encode(text)) != (wanted := model.tokenizer.encode(text)):
            raise ValueError(f"the file's tokenizer makes {found} of {text!r}, the source {wanted}")


def _compare_scores(file: Path, model: LanguageModel, again: LanguageModel, dtype: str) -> dict[str, Any]:
    """Scores of the fixed texts and of random ones, and a greedy continuation, beside the independent forward pass.

    The file's own model, as `gptjax.load` has it, must agree with that within the tolerance of float32 whatever the
    dtype; with the source it must within that of the dtype.
    """
    config = model.config
    fixed = [ids for ids in encode_prompts(model.tokenizer, model.generation_config, PROMPTS) if ids]
    texts, begun = probes(config, fixed)
    [[sample]] = again.generate(begun, temperature=0, tokens=CONTINUED)
    *found, of_greedy = gguf_reread.logits(file, [*texts, [*begun, *sample.ids[:-1]]])
    largest = max(float(np.abs(logits_TV).max()) for logits_TV in found)
    difference = largest_difference(found, logits_of(again, texts))
    if not difference <= TOLERANCE * largest:  # of NaN it is NaN
        raise ValueError(
            f"scores of up to {largest:.4g} differ by {difference:.4g} between two readers of the file: its settings "
            f"do not say what the source computes"
        )
    check_greedy(of_greedy, begun, sample.ids, largest, "by one reader of the file", "by the other")
    float32 = LanguageModel(config, model.tokenizer, model.params, mesh=model.mesh)
    source = np.concatenate(logits_of(float32, texts)).astype(np.float64)
    moved = float(np.sqrt(np.mean((np.concatenate(found) - source) ** 2)) / source.std())
    allowed = DTYPES[dtype][1]
    if not moved <= allowed:
        raise ValueError(
            f"scores move by {moved:.4g} of their deviation, for {dtype} at most {allowed:g} is allowed: this model "
            f"does not bear so few bits"
        )
    return {
        "logits": {
            "texts": len(texts),
            "tokens": sum(map(len, texts)),
            "largest": largest,
            "largest_difference": difference,
            "allowed_difference": TOLERANCE * largest,
            "moved": moved,
            "allowed_moved": allowed,
        },
        "greedy": {"prompt": begun, "continuation": list(sample.ids)},
    }
