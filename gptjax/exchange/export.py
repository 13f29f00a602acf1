"""A model as a folder in Hugging Face's layout, which appears whole and proven, or not at all.

The files are written in a hidden folder beside the target. `gptjax.exchange.witness.reread`, which shares nothing with
this module, then reads them back and its scores are compared with the source's; what was found is kept in
`export_proof.json` with the SHA-256 of every other file. One renaming makes the folder appear.
"""

import dataclasses
import errno
import functools
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import tokenizers
from safetensors.numpy import save_file

from gptjax.config import ModelConfig
from gptjax.exchange import heads_file
from gptjax.exchange.heads_file import read_class_heads
from gptjax.exchange.hf_config import fields_of
from gptjax.exchange.hf_folder import CONFIG, RULES, read_description
from gptjax.exchange.hf_params import names, shape_of, table, written
from gptjax.exchange.hf_texts import texts
from gptjax.exchange.safetensors_file import INDEX, SINGLE
from gptjax.exchange.witness import reread
from gptjax.files.atomic_folder import absent, appearing
from gptjax.files.file_digest import describe
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Transformer, head
from gptjax.sharding import row_ways

PROOF = "export_proof.json"
SHARD_BYTES = 4 * 10**9  # of a file of weights; one is held in memory at a time
TOLERANCE = 1e-4  # of the largest logit
LONGEST = 256  # tokens of a random text that is compared
CONTINUED = 16  # tokens of the greedy continuation
PROMPTS = ("The city of London was", "曹操说：", "def main():\n    return 0\n")


def export(model: LanguageModel, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes the folder, and returns its proof.

    Raises ValueError where the folder exists, where no class of Hugging Face computes this model, or where what was
    read back differs, naming the first tensor that does; OSError where the disk lacks room. Then nothing appears and
    nothing is left; what an export to the same folder left that was killed is removed by the next.
    """
    target = absent(folder)
    small = texts(model)
    params = by_path(model.params)
    with appearing(target) as (aside, appear):
        _check_room(aside, params)
        for name, text in small.items():
            (aside / name).write_text(text, encoding="utf-8")
        _write_weights(aside, model)
        try:
            found = _prove(aside, model, params)
        except ValueError as error:
            raise ValueError(f"export: {error}; nothing was written") from error
        proof = {"gptjax": importlib.metadata.version("gptjax"), "step": model.step, **found}
        files = {path.name: describe(path) for path in sorted(aside.iterdir())}
        proof |= {"exported": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "files": files}
        (aside / PROOF).write_text(json.dumps(proof, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        describe(aside / PROOF)  # on the disk before the folder has its name
        appear()
    return proof


def _check_room(folder: Path, params: dict[str, np.ndarray]) -> None:
    needed, free = sum(leaf.nbytes for leaf in params.values()), shutil.disk_usage(folder).free
    if needed > free:
        said = f"an export of {needed / 1e6:,.0f} MB does not fit, the disk has {free / 1e6:,.0f} MB left"
        raise OSError(errno.ENOSPC, said, str(folder.parent))


def _write_weights(folder: Path, model: LanguageModel) -> None:
    """One file, or several and the index that says which tensor is where."""
    config = model.config
    shards: list[list[str]] = [[]]
    size = total = 0
    for tensor in table(config):
        for name in names(tensor, config):
            own = 4 * int(np.prod(shape_of(tensor, config)))
            if shards[-1] and size + own > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size, total = size + own, total + own
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    tensors = written(config, model.params)
    for file, shard in zip(files if len(shards) > 1 else [SINGLE], shards, strict=True):
        _save({name: next(tensors)[1] for name in shard}, folder / file)
    if len(shards) > 1:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if config.class_heads:
        (folder / heads_file.NAMES).write_text(heads_file.names_text(config.class_heads), encoding="utf-8")
        _save(heads_file.weights(config.class_heads, model.params), folder / heads_file.WEIGHTS)


def _save(tensors: dict[str, np.ndarray], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # without it older transformers refuse a file
    except safetensors.SafetensorError as error:  # how it reports a full disk
        raise OSError(f"{path}: {error}") from error
    shutil.copymode(path.parent / CONFIG, path)  # it lets nobody else read what it writes


def _prove(folder: Path, model: LanguageModel, params: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compares what was written with the source. Raises ValueError naming the first thing that differs."""
    config = model.config
    of_heads = {path: params[path] for path in params if path.startswith("class_heads")}
    others = {path: leaf for path, leaf in params.items() if path not in of_heads}
    if (wrong := reread.first_difference(folder, others, config.vocabulary)) is not None:
        raise ValueError(wrong)
    fixed = _compare_tokens(folder, model)
    scores = _compare_scores(folder, model, fixed)
    _compare_description(folder, model)
    if wrong := heads_file.first_difference(config.class_heads, read_class_heads(folder, config), of_heads):
        raise ValueError(wrong)
    count = sum(1 for tensor in table(config) for _ in names(tensor, config))
    return {"class": fields_of(config)["architectures"][0], "tensors_equal": count, **scores}


def _compare_description(folder: Path, model: LanguageModel) -> None:
    """Every small file, as `gptjax.load` understands it."""
    config, tokenizer, generation_config = read_description(folder)
    for field in dataclasses.fields(config):
        # head_width is None where H follows from D and N, and a window none where no text is longer
        name = {"head_width": "H", "window": "reach"}.get(field.name, field.name)
        found, wanted = getattr(config, name), getattr(model.config, name)
        if found != wanted and name != "dropout":  # which only training takes
            raise ValueError(f"{CONFIG} says {name}={found!r}, the source {wanted!r}")
    for field in dataclasses.fields(generation_config):
        found, wanted = getattr(generation_config, field.name), getattr(model.generation_config, field.name)
        if found != wanted:
            raise ValueError(
                f"generation_config: {field.name} is {str(found)[:200]!r}, in the source {str(wanted)[:200]!r}"
            )
    for role in ("bos", "eos", "pad", "mask"):
        if (found := getattr(tokenizer, role)) != (wanted := getattr(model.tokenizer, role)):
            raise ValueError(f"the {role.upper()} token has id {found}, in the source {wanted}")
    rules, wanted = (one.for_others(generation_config.begins_with_bos) for one in (tokenizer, model.tokenizer))
    if rules != wanted:
        raise ValueError(f"{RULES} has other rules than the source")


def _compare_tokens(folder: Path, model: LanguageModel) -> list[list[int]]:
    """The fixed texts in ids, which the library that others use must make of them by itself."""
    tokenizer, generation_config = model.tokenizer, model.generation_config
    rules = tokenizers.Tokenizer.from_file(str(folder / RULES))
    fixed = []
    for text, ids in zip(PROMPTS, encode_prompts(tokenizer, generation_config, PROMPTS), strict=True):
        found = rules.encode(text).ids
        if (found or [tokenizer.bos]) != ids:
            raise ValueError(f"{RULES} makes {found} of {text!r}, the source {ids}")
        if found:  # a small vocabulary may know no character
            fixed.append(ids)
    return fixed


def _compare_scores(folder: Path, model: LanguageModel, fixed: list[list[int]]) -> dict[str, Any]:
    """Logits of the fixed texts and of random ones, and a greedy continuation, beside the independent forward pass."""
    config = model.config
    prompts, begun = probes(config, fixed)
    float32 = LanguageModel(
        config, model.tokenizer, model.params, generation_config=model.generation_config, mesh=model.mesh
    )
    [[sample]] = float32.generate(begun, temperature=0, tokens=CONTINUED)
    *found, of_greedy = reread.logits(folder, [*prompts, [*begun, *sample.ids[:-1]]])
    largest = max(float(np.abs(logits_TV).max()) for logits_TV in found)
    difference = largest_difference(found, logits_of(float32, prompts))
    if not difference <= TOLERANCE * largest:
        raise ValueError(
            f"every tensor is the source's, but scores of up to {largest:.4g} differ by {difference:.4g}: {CONFIG} "
            f"does not say what the source computes"
        )
    check_greedy(of_greedy, begun, sample.ids, largest, "in the source", "in what was written")
    return {
        "logits": {
            "texts": len(prompts),
            "tokens": sum(map(len, prompts)),
            "largest": largest,
            "largest_difference": difference,
            "allowed_difference": TOLERANCE * largest,
        },
        "greedy": {"prompt": begun, "continuation": list(sample.ids)},
    }


def probes(config: ModelConfig, fixed: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """(the fixed texts and two random ones, in ids, as far as the context goes; what is continued of the first)."""
    draw = np.random.default_rng(0)
    random = [draw.integers(0, config.vocabulary, min(config.T, LONGEST)).tolist() for _ in range(2)]
    texts = [ids[: config.T] for ids in [*fixed, *random]]
    return texts, texts[0][: max(1, config.T // 2)]


def largest_difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Between the scores of two readers; of NaN it is NaN."""
    return float(np.max([np.abs(one - other).max() for one, other in zip(a, b, strict=True)]))


def check_greedy(
    logits_TV: np.ndarray, begun: list[int], ids: Sequence[int], largest: float, one: str, other: str
) -> None:
    """Raises ValueError where one reader's greedy continuation `ids` of `begun` is not the other's, by its `logits_TV`.

    Of two tokens whose scores are as high, either may be taken.
    """
    chosen_TV = logits_TV[len(begun) - 1 :]
    short_T = chosen_TV.max(axis=-1) - chosen_TV[np.arange(len(ids)), list(ids)]
    if not short_T.max() <= 2 * TOLERANCE * largest:
        place = int(np.argmax(short_T))
        raise ValueError(
            f"token {place} of a greedy continuation is {ids[place]} {one}, {int(chosen_TV[place].argmax())} {other}"
        )


def logits_of(model: LanguageModel, texts: list[list[int]]) -> list[np.ndarray]:
    """The source's own scores, f32 [T, vocabulary] a text."""
    with model.on_mesh():
        B = -(-len(texts) // row_ways()) * row_ways()
        tokens_BT = np.zeros((B, max(map(len, texts))), np.int32)
        for row, ids in enumerate(texts):
            tokens_BT[row, : len(ids)] = ids
        logits_BTV = np.asarray(_logits(Transformer(model.config), model.params, tokens_BT))
    return [logits_BTV[row, : len(ids), : model.config.vocabulary] for row, ids in enumerate(texts)]


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Transformer, params: Any, tokens_BT: Any) -> jax.Array:
    """Causal, so that padding behind a text is seen by none of it."""
    one_BT = jnp.ones_like(tokens_BT)
    place_BT = jnp.cumsum(one_BT, axis=1) - 1
    hidden_BTD, _ = model.apply({"params": params}, tokens_BT, one_BT, place_BT, jnp.zeros_like(one_BT, bool))
    return logits_from(hidden_BTD, head(params), model.config.vocabulary, model.config.logit_cap)


def by_path(params: Any) -> dict[str, np.ndarray]:
    """Every parameter by its path, such as "layers/query", on the host."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not leaf.is_fully_addressable:
            raise ValueError(f"export: {name} is spread over several processes; load the run in one, and export there")
        found[name] = np.asarray(leaf, np.float32)
    return found
