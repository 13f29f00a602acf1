"""What cheap classifiers make of continuity's pairs: run by hand, `python -m tests.leaks [rows of each source]`.

Each sees only A, only B, or lengths and source. On three balanced classes none may reach more than 38 %; above chance,
33 %, is what a block's place in its document shows. Every figure is of pairs from documents that did not train it.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from data.pipeline import Rows
from data.prepare import prepare
from data.rowplan import scramble
from data.tasks.continuity import Continuity
from train.recipes.laptop import recipe

T, ROWS, FOLDS = 256, 2000, 4
STRENGTHS = (1e-4, 1e-3, 1e-2)  # of the penalty on squared weights; the best figure is shown


def pairs(prepared: Path, source: str, rows: int):
    """(tokens of A and of B as counts by vocabulary, f32 [S, V] each; lengths [S, 2]; class [S]; lot of the row [S])."""
    reader = Rows(prepared, T, seed=0)
    text_rows = np.flatnonzero([reader.source_of(row) == source for row in range(1024)])
    raise NotImplementedError
