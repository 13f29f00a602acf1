"""`gptjax export`."""

import dataclasses
from typing import Annotated, Literal

import tyro

import gptjax
from gptjax.command.verb import Verb
from gptjax.files.atomic_folder import absent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write a model as a Hugging Face folder, once the written files are proven to be the model.

    The folder must not exist. It appears only when what was written has been read back and scores as the model does;
    its export_proof.json says what was compared. Runs on the CPU, whatever devices the run was trained on.

      gptjax export runs/first exported
      gptjax export runs/first exported --step 1200 --weights ema
      gptjax export SmolLM2.gguf smollm2
      gptjax export smollm2 tuned --adapter an-adapter
      gptjax export runs/tuned an-adapter --only-adapter
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run; also a Hugging Face folder or a .gguf file."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder to make."""
    step: int | None = None
    """Checkpoint to export; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""
    only_adapter: bool = False
    """Not the model but the LoRA adapters of a run alone, in PEFT's layout."""

    def __post_init__(self):
        if self.only_adapter and self.adapter is not None:
            raise ValueError("adapter is merged into a model, only_adapter takes a run's out of it: use one of them")

    def run(self) -> None:
        absent(self.folder)  # before the slow import, so that it is reported at once

        import jax

        jax.config.update("jax_platforms", "cpu")  # the accelerator may be training this very run
        if self.only_adapter:
            gptjax.export_adapter(self.directory, self.folder, self.step, weights=self.weights)
            print(f"{self.folder}: LoRA adapters in PEFT's layout, for the weights that {self.directory} began with")
            return
        model = gptjax.load(self.directory, self.step, weights=self.weights, adapter=self.adapter)
        proof = gptjax.export(model, self.folder)
        logits = proof["logits"]
        print(
            f"{self.folder}: {proof['class']}, {model.config.parameters:,} parameters; "
            f"{proof['tensors_equal']} tensors equal, scores of up to {logits['largest']:.4g} within "
            f"{logits['largest_difference']:.2g} over {logits['tokens']} tokens"
        )
