"""gptjax: load, sample, score and ship GPT models. Importing it is cheap: JAX is imported when a run is loaded.

>>> model = gptjax.load("runs/first")
>>> model.generate("Once upon a time", temperature=0)[0][0].text
"""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gptjax.generate import LanguageModel

__all__ = ["load"]


def load(
    run: Any,
    step: int | None = None,
    *,
    weights: Literal["trained", "ema"] = "trained",
    dtype: Any = "float32",
    mesh: Any = None,
) -> "LanguageModel":
    """The model of a run directory, ready to generate.

    `step`: which checkpoint; None = the newest good one, with a warning for each newer one that is damaged. Its files
    are verified first. `weights`: "ema" = their moving average, where the run kept one. `dtype`: of the products;
    scores are float32. `mesh`: from gptjax.sharding.make_mesh, to spread the parameters; None = all on one device.
    Raises ValueError if there is no such run or step, if its files do not belong together or are damaged, or if a
    weight is NaN or infinite.
    """
    from gptjax.rundir import read_run

    found = read_run(run)  # before the slow import, so that a typo is reported at once

    from gptjax.generate import restore_model

    return restore_model(found, step, weights=weights, dtype=dtype, mesh=mesh)
