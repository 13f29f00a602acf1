"""`gptjax export`."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

import gptjax
from gptjax.command.verb import Verb
from gptjax.files.atomic_folder import absent
from gptjax.files.places import place_of_run
from gptjax.runs.rundir import run_as_loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write a model as a Hugging Face folder, a GGUF file or StableHLO, once what was written is proven.

    The folder or file must not exist. It appears only when it has been read back and scores as the model does; in a
    folder a file says what was compared. Runs on the CPU, whatever devices the run was trained on.

      gptjax export runs/first exported
      gptjax export runs/first exported --step 1200 --weights ema
      gptjax export SmolLM2.gguf smollm2
      gptjax export runs/first first.gguf --dtype q8_0
      gptjax export runs/first programs --as stablehlo
      gptjax export smollm2 tuned --adapter an-adapter
      gptjax export runs/tuned an-adapter --only-adapter
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run; also a Hugging Face folder or a .gguf file."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """Folder to make; ending in .gguf: the file to make, for llama.cpp."""
    as_: Annotated[Literal["huggingface", "stablehlo"] | None, tyro.conf.arg(name="as")] = None
    """Which folder: for transformers, or two programs with their weights, for JAX alone; None = huggingface."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] | None = None
    """That StableHLO is lowered for; None = cpu, cuda and tpu."""
    dtype: Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"] | None = None
    """Of the weights in a GGUF file; None = f32."""
    step: int | None = None
    """Checkpoint to export; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""
    only_adapter: bool = False
    """Not the model but the LoRA adapters of a run alone, in PEFT's layout."""

    def __post_init__(self):
        gguf = self.folder.lower().endswith(".gguf")
        if self.dtype is not None and not gguf:
            raise ValueError(f"dtype={self.dtype} is for a target that ends in .gguf; {self.folder!r} does not")
        if self.only_adapter and gguf:
            raise ValueError(f"only_adapter writes a folder in PEFT's layout; {self.folder!r} ends in .gguf")
        if self.only_adapter and self.adapter is not None:
            raise ValueError("adapter is merged into a model, only_adapter takes a run's out of it: use one of them")
        if self.as_ is not None and (gguf or self.only_adapter):
            other = "only_adapter" if self.only_adapter else f"{self.folder!r}, which ends in .gguf,"
            raise ValueError(f"as {self.as_} writes a folder of its own form; {other} is another form: use one of them")
        if self.platforms is not None and self.as_ != "stablehlo":
            raise ValueError("platforms is for --as stablehlo alone: other forms run anywhere")

    def run(self) -> None:
        absent(self.folder)  # before the slow import, so that it is reported at once

        import jax

        jax.config.update("jax_platforms", "cpu")  # the accelerator may be training this very run
        self._check_run()
        if self.only_adapter:
            gptjax.export_adapter(self.directory, self.folder, self.step, weights=self.weights)
            print(f"{self.folder}: LoRA adapters in PEFT's layout, for the weights that {self.directory} began with")
            return
        model = gptjax.load(self.directory, self.step, weights=self.weights, adapter=self.adapter)
        if self.as_ == "stablehlo":
            self._tell_programs(model)
            return
        proof = gptjax.export(model, self.folder, self.dtype)
        logits = proof["logits"]
        if "moved" in logits:
            self._tell(proof, model.config.parameters)
            return
        print(
            f"{self.folder}: {proof['class']}, {model.config.parameters:,} parameters; "
            f"{proof['tensors_equal']} tensors equal, scores of up to {logits['largest']:.4g} within "
            f"{logits['largest_difference']:.2g} over {logits['tokens']} tokens"
        )

    def _check_run(self) -> None:
        """Raises ValueError where the target's form cannot say what a run is; of others' models once they are read."""
        if self.only_adapter or (run := run_as_loaded(place_of_run(self.directory))) is None:
            return
        if self.as_ == "stablehlo":
            from gptjax.exchange.programs.stablehlo_export import check_exportable

            check_exportable(run)
        elif self.folder.lower().endswith(".gguf"):
            from gptjax.exchange.gguf_settings import described

            described(run, "", self.dtype or "f32")

    def _tell_programs(self, model: "gptjax.LanguageModel") -> None:
        from gptjax.exchange.programs.stablehlo_export import PLATFORMS, export_stablehlo, in_words

        manifest = export_stablehlo(model, self.folder, PLATFORMS if self.platforms is None else self.platforms)
        print(
            f"{self.folder}: StableHLO for {', '.join(manifest['platforms'])}, {manifest['parameters']:,} parameters, "
            f"for python {self.folder}/run.py TEXT 20; run without gptjax, {in_words(manifest)}"
        )

    def _tell(self, proof: dict[str, Any], parameters: int) -> None:
        """Of a GGUF file."""
        logits, left = proof["logits"], proof["left_out"]
        print(
            f"{self.folder}: {proof['class']}, {parameters:,} parameters, {proof['bytes'] / 1e6:.1f} MB; "
            f"{proof['tensors_equal']} tensors as near as the type allows, scores of up to {logits['largest']:.4g} "
            f"read alike within {logits['largest_difference']:.2g} over {logits['tokens']} tokens, moved by "
            f"{logits['moved']:.2g} of their deviation"
        )
        if left:
            print(f"left out, for a GGUF file has no place for them: the output heads {', '.join(left)}")
