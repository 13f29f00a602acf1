"""Tiny models and run directories: random ones whose greedy text varies, and ones that recite a given text."""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from gptjax.config import ModelConfig, save_model_config
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.model import Transformer, init_params
from gptjax.runs.checkpoint import CheckpointWriter
from gptjax.text.tokenizer import Tokenizer, train_bpe, train_characters

TEXT = "A: hello there\nB: the quick brown fox 曹操 jumps over 🦊 the lazy dog\n"
LLAMA = {"D": 32, "L": 2, "N": 4, "K": 4, "head_width": 8, "F": 48}
GROUPED = {**LLAMA, "K": 2}
GPT2 = {**LLAMA, "F": 64, "family": "gpt2", "activation": "gelu", "qk_norm": False}
SHAPES = {"llama": LLAMA, "grouped-query": GROUPED, "gpt2": GPT2}


@functools.cache
def bpe() -> Tokenizer:
    return train_bpe([TEXT] * 3, 290)


@functools.cache
def characters() -> Tokenizer:
    return train_characters([TEXT], 400)


@functools.cache
def random_model(shape: str = "grouped-query", T: int = 64) -> LanguageModel:
    """A model of random weights, scaled up so that its scores, and so its greedy texts, differ from place to place."""
    config = ModelConfig(T=T, vocabulary=bpe().size, tied=False, **SHAPES[shape])
    params = nn.unbox(jax.jit(lambda key: init_params(Transformer(config), key))(jax.random.key(1)))

    def louder(path, leaf):
        name = jax.tree_util.keystr(path)
        return leaf * 2 if "query_norm" in name or "key_norm" in name else leaf if "norm" in name else leaf * 10

    return LanguageModel(config, bpe(), jax.tree_util.tree_map_with_path(louder, params))


def reciter(ids: list[int], tokenizer: Tokenizer, T: int = 64) -> LanguageModel:
    """A model that after n tokens, whatever they are, says ids[n - 1]: its hidden state is the position alone."""
    assert len(ids) <= T
    config = ModelConfig(
        T=T, vocabulary=tokenizer.size, tied=False, **{**GPT2, "D": T, "N": 1, "K": 1, "head_width": T, "L": 1}
    )
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), _abstract(config))
    params["position_embedding"] = np.eye(T, dtype=np.float32)
    params["final_norm"]["scale"] += 1
    for place, id in enumerate(ids):
        params["head"][id, place] = 1
    return LanguageModel(config, tokenizer, jax.tree.map(jax.numpy.asarray, params))


def write_run(path: Path, model: LanguageModel, steps: tuple[int, ...] = (10,)) -> Path:
    """A run directory that holds the model at each of the steps."""
    path.mkdir(parents=True)
    save_model_config(model.config, path / "model.json")
    model.tokenizer.save(path / "tokenizer.json")
    writer = CheckpointWriter(path, keep=9)
    for step in steps:
        writer.save(step, {"params": model.params, "training": {"step": np.int32(step)}}, {})
    writer.close()
    return path


def _abstract(config: ModelConfig):
    return nn.unbox(jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0))))
