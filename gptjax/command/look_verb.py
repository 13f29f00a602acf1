"""The verb `gptjax look`: what happens inside a model while it reads a text, as a page. No JAX before it runs."""

import dataclasses
import time
from typing import Annotated, Literal

import tyro

import gptjax
from gptjax.command.compiled import keep_compiled
from gptjax.command.predict_verb import place_for_file
from gptjax.command.verb import Verb
from gptjax.files.places import place_of_run
from gptjax.look.asking import asked
from gptjax.runs.rundir import read_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookInside(Verb):
    """Look inside a model while it reads a text: one page of HTML, which any browser shows without a network.

    It shows the attention of every layer and head, with what each head was measured to do; what the model would say
    next at every place, and behind each layer; how surprised it was by each token; which tokens its next one depends
    on; and what its output heads tell, with the tokens that speak for it. A model that reads from both sides too is
    shown doing so beside.

      gptjax look runs/first --text "The cat sat on the mat. The cat"
      gptjax look runs/first --text "狐狸 🦊 和狗" --to fox.html --token 3
      gptjax look large-model --text "A long text" --layers 0 10 20 --heads 0 1
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run, folder in Hugging Face's layout, or .gguf file."""
    text: str
    """What the model reads."""
    to: str = "look.html"
    """File to write."""
    replace: bool = False
    """Write over a file that is there already."""
    layers: tuple[int, ...] | None = None
    """Layers to show, from 0 on; None = all. Fewer need less memory, and a smaller page."""
    heads: tuple[int, ...] | None = None
    """Attention heads to show, of each layer; None = all."""
    token: int | None = None
    """Number of the token whose causes are looked for, from 1; None = the likeliest that would follow the text."""
    leave_out: int | None = None
    """Tokens before it that are left out in turn, to see what that changes; None = as many as take a second or two."""
    step: int | None = None
    """Checkpoint of a run; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""

    def run(self) -> None:
        begun = time.monotonic()
        target = place_for_file(self.to, self.replace)
        choice = {name: getattr(self, name) for name in ("layers", "heads", "token", "leave_out")}
        if not self.text:
            raise ValueError("text: is empty; give at least one character to look at")
        if (place_of_run(self.directory) / "model.json").is_file():  # of others, a model is read first
            run = read_run(place_of_run(self.directory))
            asked(run.config, run.tokenizer, run.generation_config, self.text, **choice)
        keep_compiled(short=True)
        model = gptjax.load(self.directory, self.step, weights=self.weights, adapter=self.adapter)
        look = model.look(self.text, **choice)
        look.save(target, name=place_of_run(self.directory).resolve().name)
        size, took = target.stat().st_size / 1e6, time.monotonic() - begun
        print(
            f"wrote {self.to}: {len(look.pieces)} tokens, {len(look.asked.layers)} layers x {len(look.asked.heads)} "
            f"heads, {size:.1f} MB, {took:.1f} s; open it in a browser"
        )
