"""What trains in fine-tuning, by one word: rules of the optimizer for a model of L layers.

Imports neither JAX nor TensorFlow.
`all`: every weight. `lora`: adapters beside the weights, and output heads. `head`: new output heads alone. `top-N`: the
top N layers and the final norm too. `gradual`: all, from the top down, a group of layers after another.
"""

import dataclasses
import itertools
import re
from collections.abc import Collection
from typing import NamedTuple

from gptjax.config import Lora
from gptjax.spelling import did_you_mean
from train.recipe import Schedule
from train.tuning.tune_recipe import HEADS, TuneRecipe, frozen_beside

WORDS = ("all", "lora", "head", "top-N", "gradual")
GROUPS = 4  # of layers, at most, that `gradual` thaws one after another
THAWED_BY = 0.5  # share of the run from which on everything trains
DEEP = 12  # layers above which rates fall more slowly from one to the next
OF_ADAPTERS = 3e-4  # learning rate of adapters, at least: ten times that of the weights (Hu et al. 2021, section D)
PROBE = 1e-3  # learning rate of heads that train alone, at least: nothing that was learnt before can be spoilt
BESIDE_HEADS = 1e-3  # of adapters beside new heads, at least: these start from nothing, and see few texts
OF_HEADS = 3.0  # factor on it, of these heads (docs/log.md, 2026-11-29, E5)
FINAL_NORM = "final_norm/.*"

Rules = tuple[tuple[str, float], ...]  # of train.recipe.OptimizerSpec


class Changes(NamedTuple):
    """What a word asks of a recipe. None = leaves it."""

    frozen: Rules  # share of the run before it trains
    rates: Rules = ((".*", 1.0),)  # factors on the learning rate
    schedule: Schedule | None = None
    least_rate: float | None = None  # learning rate at its peak, at least
    replay: float | None = None
    adapters: bool = False


def changes_of(word: str, L: int, heads: bool) -> Changes:
    """What a word asks of a recipe of a model with L layers, with or without new output `heads`.

    Raises ValueError for a word that is none, more layers than there are, and `head` where there is none to train.
    """
    check_word(word, L)
    own: Rules = ((HEADS, 0.0),) if heads else ()
    if word == "all":
        return Changes(((".*", 0.0),))
    if word == "lora":
        if heads:
            rates = ((HEADS, OF_HEADS), (".*", 1.0))
            return Changes(frozen_beside(heads), rates=rates, least_rate=BESIDE_HEADS, adapters=True)
        return Changes(frozen_beside(heads), least_rate=OF_ADAPTERS, adapters=True)
    if word == "head":
        if not heads:
            raise ValueError(
                "--train head: these examples have no output head of their own: words are told by the table that reads "
                "them. Give --train top-1, or examples with classes or values (--as)"
            )
        return Changes((*own, (".*", 1.0)), least_rate=PROBE, replay=0.0)
    if word == "gradual":
        return Changes(_thawing(L, heads), rates=falling(L, heads), schedule="slanted")
    N = int(word.removeprefix("top-"))
    return Changes((*own, (FINAL_NORM, 0.0), (_layers(range(L - N, L)), 0.0), (".*", 1.0)))


def check_word(word: str, L: int | None = None) -> None:
    """Raises ValueError for a word that is no strategy, or not one of a model with L layers; None = not known yet."""
    found = re.fullmatch(r"top-(\d+)", word)
    if found is None and word not in WORDS:
        raise ValueError(f"--train {word}: there is no such strategy{did_you_mean(word, WORDS)}")
    if word == "top-N" or (found and (not int(found[1]) or (L is not None and int(found[1]) > L))):
        most = "N, the base's number of layers" if L is None else str(L)
        raise ValueError(f"--train {word}: give a number of layers from the top, top-1 to top-{most}")


def check_adapters(words: Collection[str], said: Collection[str]) -> None:
    """Raises ValueError where settings of adapters are given, and none of the words trains some."""
    if "lora" not in words and any(setting.startswith("lora.") for setting in said):
        raise ValueError(
            f"--lora.*: {', '.join(words)} trains weights, and no adapters beside them; leave --lora.* out, or give "
            "--train lora, or lora as one of --stages"
        )


def groups(L: int) -> list[range]:
    """The groups of layers that thaw one after another, from the top: as large, or the lower ones larger by one."""
    count = min(L, GROUPS)
    sizes = [L // count + (n >= count - L % count) for n in range(count)]
    ends = [L, *(L - total for total in itertools.accumulate(sizes))]
    return [range(below, above) for above, below in itertools.pairwise(ends)]


def _thawing(L: int, heads: bool) -> Rules:
    """Heads at once; then a group more after each equal part of the run's first half, tables with the lowest.

    Without heads the top group trains at once. Source: Howard and Ruder 2018, arXiv:1801.06146, section 3.3.
    """
    parts = groups(L)
    before = [1.0 * heads, *map(float, range(1 + heads, len(parts) + heads))]
    last = max(1.0, before[-1])
    shares = [round(THAWED_BY * part / last, 4) for part in before]
    own = ((HEADS, 0.0),) if heads else ()
    layers = tuple((_layers(part), share) for part, share in zip(parts, shares, strict=True))
    return (*own, (FINAL_NORM, shares[0]), *layers, (".*", shares[-1]))


def falling(L: int, heads: bool) -> Rules:
    """Rates that fall from layer to layer, from the top down: by 0.8, of models of over 12 layers by 0.9.

    Source: Clark et al. 2020, arXiv:2003.10555, table 7; by 2.6 in Howard and Ruder 2018, section 3.2, whose layers
    were few.
    """
    decay = 0.9 if L > DEEP else 0.8
    own = ((HEADS, 1.0),) if heads else ()
    layers = tuple((f"layers/{layer}/.*", _round(decay ** (L - 1 - layer))) for layer in reversed(range(L)))
    return (*own, (FINAL_NORM, 1.0), *layers, (".*", _round(decay**L)))


def _round(factor: float) -> float:
    return float(f"{factor:.3g}")  # as it is printed


def _layers(some: Collection[int]) -> str:
    """The pattern of all parameters of some layers."""
    listed = "|".join(map(str, some))
    return f"layers/({listed})/.*" if len(some) > 1 else f"layers/{listed}/.*"


def trained_by(recipe: TuneRecipe, word: str, said: Collection[str] = ()) -> TuneRecipe:
    """The recipe in which trains what the word says; `said`, settings such as optimizer.frozen, stay as they are.

    Adapters are made by `lora`, and left out by the others. Raises ValueError as `changes_of` does.
    """
    wanted = changes_of(word, recipe.model.L, recipe.learns_heads)
    rate = max(recipe.optimizer.learning_rate, wanted.least_rate or 0)
    asked = {"frozen": wanted.frozen, "rates": wanted.rates, "schedule": wanted.schedule, "learning_rate": rate}
    free = {name: value for name, value in asked.items() if value is not None and f"optimizer.{name}" not in said}
    return dataclasses.replace(
        recipe,
        optimizer=dataclasses.replace(recipe.optimizer, **free),
        lora=(recipe.lora or Lora()) if wanted.adapters else None,
        replay=recipe.replay if wanted.replay is None or "replay" in said else wanted.replay,
    )


def settings_said(words: Collection[str]) -> set[str]:
    """Dotted paths of the settings that a command line names."""
    return {word.partition("=")[0][2:].replace("-", "_") for word in words if word.startswith("--")}
