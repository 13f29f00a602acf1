"""The command `gptjax VERB ...`: parses before JAX is imported, so that a typo is reported at once, in one line.

A verb is a dataclass in VERBS: its docstring and fields are its help, `run` does it.
"""

import contextlib
import dataclasses
import math
import os
import re
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gptjax
from gptjax import arguments
from gptjax.command.allocator import keep_freed_memory
from gptjax.command.console import print_any_text
from gptjax.command.evaluate_verb import Evaluate
from gptjax.command.export_verb import Export
from gptjax.command.features_verb import Features
from gptjax.command.look_verb import LookInside
from gptjax.command.options import USER_ERROR, read
from gptjax.command.predict_verb import Predict
from gptjax.command.serve_verb import Serve
from gptjax.command.verb import Verb
from gptjax.decoding.sampling import Sampling
from gptjax.evaluation.items import unescaped
from gptjax.inference.chat import Chat, from_first_word
from gptjax.inference.conversation import turn_ids
from gptjax.runs.bucket_run import every_step
from gptjax.runs.manifest import check_sizes, folder_of, numbered, verify
from gptjax.runs.rundir import read_run
from gptjax.spelling import did_you_mean

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel, Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(Verb):
    """Continue a text, or talk with a run.

    With --prompt the run continues that text. Without one it is a conversation that keeps earlier turns in mind: type a
    line and press Enter; /new starts over, Ctrl-D leaves. Lines piped in are answered one by one. With --chat the
    prompt is the one turn of a conversation, and the answer is printed.

    In --stop and --logit-bias \\n is a line break.

      gptjax generate runs/first --prompt "Once upon a time" --tokens 100
      gptjax generate runs/first --prompt "ROMEO:" --temperature 0 --stop JULIET: "\\n\\n"
      gptjax generate runs/first --prompt "What is a fox?" --chat --system "Answer in one sentence."
      gptjax generate runs/first --prompt "I say" --min-p 0.1 --repetition-penalty 1.2 --log-probs
      gptjax generate runs/first --prompt "I say" --logit-bias " the" -5 " of" -inf
      gptjax generate runs/first
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, as `./launch.sh pretrain` makes it; or a Hugging Face folder, or a .gguf file."""
    prompt: str | None = None
    """Text to continue; "" lets the model begin by itself. None = a conversation. With --chat: what you say."""
    chat: bool = False
    """Say the prompt to the model, by its chat template or as a line of A, and print the answer."""
    system: str | None = None
    """With --chat: what goes before the conversation, such as how to answer."""
    samples: int = 1
    """How many different continuations of the prompt."""
    step: int | None = None
    """Checkpoint to load; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""
    log_probs: bool = False
    """After a text, list its tokens: log-probability in nats and probability, as the model believes, and the token."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=Sampling)

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: must be at least 1")
        if self.samples > 1 and self.prompt is None:
            raise ValueError(f"samples={self.samples} needs --prompt: a conversation has one reply a turn")
        if self.chat and self.prompt is None:
            raise ValueError("chat needs --prompt: without one it is a conversation in any case")
        if self.system is not None and not self.chat:
            raise ValueError(
                "system needs --chat: alone, --prompt is a text that is continued as it is; add --chat to say it in a "
                "conversation, which the system message goes before"
            )
        if self.log_probs and self.prompt is None:
            raise ValueError("log_probs needs --prompt: a conversation shows replies only")

    def run(self) -> None:
        model = gptjax.load(self.directory, self.step, weights=self.weights, adapter=self.adapter)
        sampling = typed(self.sampling)
        if self.prompt is None:
            converse(model, self.directory, sampling)
            return
        prompt = self.prompt
        if self.chat:
            chat = Chat(model, sampling)
            prompt, sampling = turn_ids(model, chat, prompt, self.system), chat.sampling
        continue_prompt(model, prompt, self.samples, sampling, self.log_probs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(Verb):
    """List a run's saved steps, or verify that they are what was saved.

    `list` is quick: it compares sizes. `verify` reads every file, compares its SHA-256 with the step's manifest and
    looks for weights that are not numbers; one line a step, and exit status 1 if any is bad.

      gptjax checkpoint list runs/first
      gptjax checkpoint verify runs/first --step 1200
    """

    action: Annotated[Literal["list", "verify"], tyro.conf.Positional]
    """What to do."""
    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, as `./launch.sh pretrain` makes it."""
    step: int | None = None
    """The only step to verify; None = all of them."""

    def __post_init__(self):
        if self.step is not None and self.action == "list":
            raise ValueError(f"step={self.step}: goes with verify; list shows all steps")

    def run(self) -> None:
        run = every_step(self.directory)
        if not (run / "checkpoints").is_dir():
            read_run(run)  # says what a mistyped name may mean
            raise ValueError(f"{run}: has no checkpoints yet")
        if self.action == "list":
            print("\n".join(step_lines(run)))
            return
        bad = False
        for step in numbered(run) if self.step is None else [self.step]:
            try:
                print(verified(run, step), flush=True)
            except ValueError as error:
                print(error, flush=True)
                bad = True
        if bad:
            sys.exit(1)


VERBS: dict[str, type[Verb]] = {
    "generate": Generate,
    "evaluate": Evaluate,
    "predict": Predict,
    "look": LookInside,
    "features": Features,
    "checkpoint": Checkpoint,
    "export": Export,
    "serve": Serve,
}


def main() -> None:
    """Entry point of the `gptjax` command."""
    print_any_text()
    warnings.showwarning = lambda message, *_, **__: print(f"gptjax: {message}", file=sys.stderr)
    try:
        verb = parse(sys.argv[1:])
        if isinstance(verb, Generate | Evaluate | Features | LookInside | Predict | Serve):
            keep_freed_memory()  # a fifth of the time of decoding on a CPU
        verb.run()
        sys.stdout.flush()
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, `head` for one, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        print(f"gptjax: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print()
        sys.exit(130)  # as a shell reports SIGINT


def parse(words: Sequence[str]) -> Verb:
    """The verb with its settings. Raises ValueError for a typo, a missing or a bad value; --help prints and exits."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        sys.exit(0 if words else USER_ERROR)
    name, *rest = words
    if name not in VERBS:
        raise ValueError(f"unknown verb {name!r}{did_you_mean(name, list(VERBS))}")
    try:
        return read(VERBS[name], rest, f"gptjax {name}")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def overview() -> str:
    lines = [f"  {name:<10} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()]
    return "\n".join(["usage: gptjax VERB [ARGS...]", "", *lines, "", "gptjax VERB --help shows what a verb takes."])


def verified(run: Path, step: int) -> str:
    """A line that says so. Raises ValueError naming what is damaged, or what is not a number."""
    verify(run, step)

    import jax

    jax.config.update("jax_platforms", "cpu")  # the accelerator may be training this very run
    from gptjax.runs.checkpoint import refuse_nonfinite, restore, saved_shapes

    for name in ("params", "ema"):
        if (folder_of(run, step) / name).is_dir():
            refuse_nonfinite(step, name, restore(run, step, name, saved_shapes(run, step, name)))
    return f"step {step}: good, {size_of(folder_of(run, step))}"


def step_lines(run: Path) -> list[str]:
    """A table of a run's steps, then of the folders that were set aside or are not finished."""
    found: dict[int, dict[str, Any] | ValueError] = {}
    for step in numbered(run):
        try:
            found[step] = check_sizes(run, step)
        except ValueError as error:
            found[step] = error
    best = next((kept.get("best") for kept in reversed(found.values()) if isinstance(kept, dict)), None)
    rows = [("step", "saved", "size", "best", "loss", "state")]
    for step, kept in found.items():
        size = size_of(folder_of(run, step))
        if isinstance(kept, dict):
            loss = f"{kept['loss']:.4f}" if isinstance(kept.get("loss"), float) else ""
            rows.append((str(step), str(kept["saved"]), size, "best" if step == best else "", loss, "complete"))
        else:
            rows.append((str(step), "", size, "", "", f"damaged: {kept}"))
    for folder in sorted((run / "checkpoints").iterdir()):
        if kind := re.match(r"\d+\.(damaged|unfinished|deleted)", folder.name):
            state = {"damaged": "set aside", "unfinished": "unfinished", "deleted": "half deleted"}[kind[1]]
            rows.append((folder.name, "", size_of(folder), "", "", state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def size_of(folder: Path) -> str:
    """Of all files in a folder, such as "1.2 GB"."""
    size = float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def typed(sampling: Sampling) -> Sampling:
    """Settings as they are meant in a shell, where \\n is a line break."""
    bias = {unescaped(token) if isinstance(token, str) else token: by for token, by in sampling.logit_bias.items()}
    return dataclasses.replace(sampling, stop=tuple(map(unescaped, sampling.stop)), logit_bias=bias)


def continue_prompt(
    model: "LanguageModel", prompt: str | list[int], samples: int, sampling: Sampling, log_probs: bool = False
) -> None:
    """Prints the prompt and what follows: one sample as it comes, several one after another.

    A prompt of ids is a turn that is answered: the answer alone is printed.
    """
    shown = prompt if isinstance(prompt, str) else ""

    def close(sample: "Sample") -> None:
        if log_probs:
            print("\n".join(token_lines(model, sample)))
        note_end(model, sample, answers=not isinstance(prompt, str))

    settings: dict[str, Any] = dataclasses.asdict(sampling)
    settings["prefix"] = not isinstance(prompt, str) and model.generation_config.encodes_prompt
    if samples == 1:
        text = model.stream(prompt, **settings)
        print(shown, end="", flush=True)
        close(show(text if isinstance(prompt, str) else from_first_word(text)))
        return
    for number, sample in enumerate(model.generate(prompt, samples=samples, **settings)[0], start=1):
        print(quiet(f"── sample {number} of {samples} ──"))
        print(shown + sample.text if isinstance(prompt, str) else sample.text.lstrip())
        close(sample)


def token_lines(model: "LanguageModel", sample: "Sample") -> list[str]:
    """A line a token: log-probability, probability, text; and what the tokens cost on average."""
    tokens = list(zip(sample.ids, sample.log_probs, strict=True))
    lines = [f"{nats:9.4f}  {math.exp(nats):6.1%}  {model.tokenizer.token(id)!r}" for id, nats in tokens]
    mean = sum(sample.log_probs) / len(tokens)
    return [*lines, f"{mean:9.4f}  on average: perplexity {math.exp(-mean):.2f} of {len(tokens)} tokens"]


def converse(model: "LanguageModel", name: str, sampling: Sampling) -> None:
    """A conversation, a line a turn, until the input ends or Ctrl-C."""
    at_terminal = sys.stdin.isatty()
    chat = Chat(model, sampling)
    if at_terminal:
        step = "" if model.step is None else f", step {model.step}"
        print(quiet(f"{name}{step}. You are A, the model is B. /new starts over, Ctrl-D leaves."))
    with contextlib.suppress(KeyboardInterrupt):
        for line in typed_lines() if at_terminal else map(str.strip, sys.stdin):
            if line == "/new":
                chat = Chat(model, sampling)
            elif line:
                try:
                    reply = chat.say(arguments.text("this line", line))
                except ValueError as error:
                    print(f"gptjax: {error}", file=sys.stderr)
                    continue
                print("B: " if at_terminal else "", end="", flush=True)
                note_end(model, show(reply), answers=True)
        return
    print()


def typed_lines() -> Iterator[str]:
    """Lines typed at the terminal, with editing and history where Python has them, up to Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() uses it once it is imported
    while True:
        try:
            yield input("A: ").strip()
        except EOFError:
            print()
            return


def show[Result](pieces: Iterator[str] | Generator[str, None, Result]) -> Result:
    """Prints a text as it comes, and a line's end; returns what its generator returned."""
    while True:
        try:
            print(next(pieces), end="", flush=True)
        except StopIteration as end:
            print()
            return end.value


def note_end(model: "LanguageModel", sample: "Sample", answers: bool) -> None:
    """Says on stderr why a text is shorter than was asked; `answers`: the prompt was a turn of a conversation."""
    if sample.ended == "context full":
        print(quiet(f"[ended: this model's context of {model.config.T} tokens is full]"), file=sys.stderr)
    elif sample.ended != "length" and not sample.text.strip():
        said = "a stop string came first" if sample.ended == "stop" else "the model ended the text at once"
        hint = "" if answers or model.generation_config.chat_template is None else "; it has learnt to talk: try --chat"
        print(quiet(f"[nothing: {said}{hint}]"), file=sys.stderr)


def quiet(text: str) -> str:
    """Grey on a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


if __name__ == "__main__":
    main()
