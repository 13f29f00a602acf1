"""The command `gptjax VERB ...`: parses before JAX is imported, so that a typo is reported at once, in one line.

A verb is a dataclass in VERBS: its docstring and fields are its help, `run` does it.
"""

import abc
import contextlib
import dataclasses
import io
import math
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

import gptjax
from gptjax.chat import Chat
from gptjax.config import did_you_mean
from gptjax.sampling import Sampling

if TYPE_CHECKING:
    from gptjax.generate import LanguageModel, Sample

USER_ERROR = 2  # exit status


class Verb(abc.ABC):
    """What a word after `gptjax` does."""

    @abc.abstractmethod
    def run(self) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(Verb):
    """Continue a text, or talk with a run.

    With --prompt the run continues that text. Without one it is a conversation that keeps earlier turns in mind: type a
    line and press Enter; /new starts over, Ctrl-D leaves. Lines piped in are answered one by one.

      gptjax generate runs/first --prompt "Once upon a time" --tokens 100
      gptjax generate runs/first --prompt "ROMEO:" --temperature 0 --stop JULIET:
      gptjax generate runs/first --prompt "I say" --min-p 0.1 --repetition-penalty 1.2 --log-probs
      gptjax generate runs/first --prompt "I say" --logit-bias " the" -5 " of" -inf
      gptjax generate runs/first
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, as `python -m train pretrain` makes it."""
    prompt: str | None = None
    """Text to continue; "" lets the model begin by itself. None = a conversation."""
    samples: int = 1
    """How many different continuations of the prompt."""
    step: int | None = None
    """Checkpoint to load; None = the newest usable one."""
    log_probs: bool = False
    """After a text, list its tokens: log-probability in nats and probability, as the model believes, and the token."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=Sampling)

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: must be at least 1")
        if self.samples > 1 and self.prompt is None:
            raise ValueError(f"samples={self.samples} needs --prompt: a conversation has one reply a turn")
        if self.log_probs and self.prompt is None:
            raise ValueError("log_probs needs --prompt: a conversation shows replies only")

    def run(self) -> None:
        model = gptjax.load(self.directory, self.step)
        if self.prompt is None:
            converse(model, self.directory, self.sampling)
        else:
            continue_prompt(model, self.prompt, self.samples, self.sampling, self.log_probs)


VERBS: dict[str, type[Verb]] = {"generate": Generate}


def main() -> None:
    """Entry point of the `gptjax` command."""
    try:
        parse(sys.argv[1:]).run()
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
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            verb, unknown = tyro.cli(VERBS[name], prog=f"gptjax {name}", args=rest, return_unknown_args=True)
    except SystemExit as end:
        if end.code != USER_ERROR:
            raise
        raise ValueError(f"{name}: {first_message(box.getvalue())} (gptjax {name} --help)") from None
    if unknown:
        option = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise ValueError(f"{name}: unknown option {option!r}{did_you_mean(option, options_of(VERBS[name]))}")
    return verb


def overview() -> str:
    lines = [f"  {name:<10} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()]
    return "\n".join(["usage: gptjax VERB [ARGS...]", "", *lines, "", "gptjax VERB --help shows what a verb takes."])


def first_message(box: str) -> str:
    """What tyro says in the box that it draws round an error, up to the first rule in it."""
    said = []
    for line in box.splitlines():
        text = line.strip("│ ")
        if text.startswith("──"):
            break
        if not text.startswith("╭"):
            said.append(text)
    return " ".join(said)


def options_of(verb: type) -> list[str]:
    """The options of a verb, those of its nested settings included."""
    names = [field.name for kind in (verb, Sampling) for field in dataclasses.fields(kind)]
    return [f"--{name.replace('_', '-')}" for name in names if name not in ("directory", "sampling")]


def continue_prompt(
    model: "LanguageModel", prompt: str, samples: int, sampling: Sampling, log_probs: bool = False
) -> None:
    """Prints the prompt and what follows: one sample as it comes, several one after another."""

    def close(sample: "Sample") -> None:
        if log_probs:
            print("\n".join(token_lines(model, sample)))
        note_end(model, sample)

    settings = dataclasses.asdict(sampling)
    if samples == 1:
        text = model.stream(prompt, **settings)
        print(prompt, end="", flush=True)
        close(show(text))
        return
    for number, sample in enumerate(model.generate(prompt, samples=samples, **settings)[0], start=1):
        print(quiet(f"── sample {number} of {samples} ──"))
        print(prompt + sample.text)
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
        print(quiet(f"{name}, step {model.step}. You are A, the model is B. /new starts over, Ctrl-D leaves."))
    with contextlib.suppress(KeyboardInterrupt):
        for line in typed_lines() if at_terminal else map(str.strip, sys.stdin):
            if line == "/new":
                chat = Chat(model, sampling)
            elif line:
                try:
                    reply = chat.say(line)
                except ValueError as error:
                    print(f"gptjax: {error}", file=sys.stderr)
                    continue
                print("B: " if at_terminal else "", end="", flush=True)
                show(reply)
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


def note_end(model: "LanguageModel", sample: "Sample") -> None:
    if sample.ended == "context full":
        print(quiet(f"[ended: this model's context of {model.config.T} tokens is full]"), file=sys.stderr)


def quiet(text: str) -> str:
    """Grey on a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


if __name__ == "__main__":
    main()
