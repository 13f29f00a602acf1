"""Models for lm_eval, in process: its own command line, which knows them, and `lm` for Python.

    python -m gptjax.harness run --model gptjax --model_args pretrained=runs/first --tasks quiz --include_path tasks/

Needs the extra `eval`; nothing else of gptjax imports lm_eval.

Source: lm_eval 0.4.13, lm_eval/api/model.py, class LM.
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import gptjax
from gptjax.command.progress import bar
from gptjax.decoding.sampling import Sampling
from gptjax.evaluation.evaluate import continued
from gptjax.inference import conversation
from gptjax.inference.chat import LINES, TURNS
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts, encode_rendered
from gptjax.inference.text_likelihood import continuations, encoded_pairs, rolling

TOKENS = 256  # of an answer, where a task does not say
# the first that is given counts
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
PASSED_ON = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")  # settings of ours, if they sample
# what turns a setting off in lm_eval's tasks; None does with us
OFF = {"top_k": lambda k: k <= 0, "top_p": lambda p: p >= 1, "min_p": lambda p: p <= 0}
# A noncharacter on either side of what a chat template wrote. lm_eval carries it along, in its cache of requests too,
# so that the text itself says how it is to be read.
MARK = "\ufdd1"
RENDERED = re.compile(f"{MARK}(.*?){MARK}(.*)", re.DOTALL)


class Adapter:
    """What lm_eval asks of a model. `lm` joins it with lm_eval's base class.

    `pretrained`: what gptjax.load takes, or a model that is loaded already; `step`, `weights` and `dtype` go with it.
    `batch_tokens`: see gptjax.inference.scoring.score. `seed`: of sampled answers, where a task gives none; the n-th
    time that a request comes again, it is n more. lm_eval's own `batch_size`, `max_batch_size` and `device` change
    nothing: scores do not depend on batches, and JAX chooses the device (JAX_PLATFORMS).
    """

    def __init__(
        self,
        pretrained: str | int | PathLike[str] | LanguageModel,  # lm_eval makes a number of a name of digits
        *,
        step: int | None = None,
        weights: Any = "trained",
        dtype: str = "float32",
        batch_tokens: int | None = None,
        seed: int = 0,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ):
        super().__init__()
        if not isinstance(pretrained, LanguageModel):
            pretrained = gptjax.load(str(pretrained), step, weights=weights, dtype=dtype)
        self.model = pretrained
        self._batch_tokens, self._seed = batch_tokens, seed

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        pairs = encoded_pairs(self.model, [request.args for request in requests], self._encode)
        with bar("scoring") as progress:
            found = continuations(self.model, pairs, batch_tokens=self._batch_tokens, progress=progress)
        answers = [(one.log_prob, one.greedy) for one in found]
        return self._remembered("loglikelihood", requests, answers)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        texts = self.model.tokenizer.encode_batch([request.args[0] for request in requests])
        with bar("scoring") as progress:
            found = rolling(self.model, texts, batch_tokens=self._batch_tokens, progress=progress)
        return self._remembered("loglikelihood_rolling", requests, found)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        prompts = self._encode([request.args[0] for request in requests])
        settings = [{"seed": self._seed, **settings_of(request.args[1])} for request in requests]
        for each in settings:
            Sampling(**each)  # what cannot be is told before any answer
        alike: dict[tuple[str, int], list[int]] = {}
        came: Counter[tuple[str, str]] = Counter()
        for number, request in enumerate(requests):
            asked = request.args[0], repr(request.args[1])
            alike.setdefault((asked[1], came[asked]), []).append(number)
            came[asked] += settings[number]["temperature"] > 0  # what is not drawn comes out the same
        said = [""] * len(requests)
        with bar("answering") as progress:
            for (_, earlier), numbers in alike.items():
                how = settings[numbers[0]]
                how = {**how, "seed": (how["seed"] + earlier) % 2**32}
                texts = continued(self.model, [prompts[n] for n in numbers], progress=progress, **how)
                for number, text in zip(numbers, texts, strict=True):
                    said[number] = text
        return self._remembered("generate_until", requests, said)

    @property
    def tokenizer_name(self) -> str:
        """Part of the names of files in which lm_eval keeps requests; another tokenizer or template, another name."""
        rules = self.model.tokenizer.fingerprint + self._template
        return f"gptjax-{hashlib.sha256(rules.encode()).hexdigest()[:16]}"

    @property
    def _template(self) -> str:
        return self.model.generation_config.chat_template or LINES

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's template, for the record; there is one, so that a name chooses nothing."""
        return self._template if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, up to where the assistant speaks; special tokens typed in it stay plain text.

        Without `add_generation_prompt` the last message, a task's gen_prefix, is the beginning of what it says, which
        the template writes too. A system message goes before the first turn where the template refuses it. What the
        template wrote is between two MARKs, but for white space at its end, which counts to what follows, as in any
        context.
        """
        messages = [{**one, "content": one["content"].replace(MARK, "")} for one in chat_history]
        if not add_generation_prompt and messages[-1]["role"] != "assistant":
            raise ValueError(f"gen_prefix: the last message is of the {messages[-1]['role']}, not of the assistant")
        text = conversation.written(self.model, messages, continues=not add_generation_prompt)
        written = text.rstrip()
        return f"{MARK}{written}{MARK}{text[len(written) :]}"

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes into its results."""
        return {"model_num_parameters": self.model.config.parameters, "model_step": self.model.step}

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Names of special tokens are these only where a template wrote them: not in a text without MARKs, nor behind
        the second, where choices and beginnings of answers are."""
        tokenizer, found = (
            self.model.tokenizer,
            encode_prompts(self.model.tokenizer, self.model.generation_config, texts),
        )
        for number, text in enumerate(texts):
            if parts := RENDERED.fullmatch(text):
                behind = tokenizer.shielded(parts[2])
                if self._template in (LINES, TURNS) and behind and not behind[0].isspace():
                    behind = f" {behind}"  # as our lines have it between the speaker and what it says
                found[number] = encode_rendered(tokenizer, parts[1] + behind)
        return found

    def _remembered(self, kind: str, requests: Sequence[Any], answers: list[Any]) -> list[Any]:
        """The answers, which lm_eval's cache has been told."""
        hook: Any = self.cache_hook  # pyright: ignore[reportAttributeAccessIssue]  the base class has it
        for request, answer in zip(requests, answers, strict=True):
            hook.add_partial(kind, request.args, answer)
        return answers


def settings_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ours for lm_eval's generation arguments. Nothing is drawn, and nothing left out, unless they say so.

    Raises ValueError for one that we do not have.
    """
    left = dict(asked)
    until = left.pop("until", None) or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    lengths = [length for name in LENGTH_NAMES if (length := left.pop(name, None)) is not None]
    sample = left.pop("do_sample", None)
    settings = {"temperature": 1 if sample else 0, "top_p": None}
    settings |= {name: value for name in PASSED_ON if (value := left.pop(name, None)) is not None}
    for name, off in OFF.items():
        if settings.get(name) is not None and off(settings[name]):
            settings[name] = None
    if sample is False or settings["temperature"] == 0:
        penalty = settings.get("repetition_penalty")  # the one setting that changes the likeliest token
        settings = {"temperature": 0} | ({} if penalty is None else {"repetition_penalty": penalty})
    if left.get("num_beams") == 1:  # no search
        del left["num_beams"]
    if left:
        raise ValueError(
            f"generation argument {next(iter(left))!r} is not known; known are until, do_sample, {LENGTH_NAMES[0]}, "
            f"{', '.join(PASSED_ON)}"
        )
    return {"stop": tuple(filter(None, stop)), "tokens": int(lengths[0]) if lengths else TOKENS, **settings}


def lm(*model: Any, **settings: Any) -> Any:
    """A model for lm_eval; arguments as Adapter's."""
    return _registered()(*model, **settings)


def _registered() -> Any:
    """The adapter as a class of lm_eval, known to it as `gptjax`."""
    try:
        import lm_eval.models  # pyright: ignore[reportMissingImports]  # noqa: F401  only an empty registry fetches them
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
        from lm_eval.api.registry import model_registry  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"lm_eval is not installed ({error}); run `pip install 'gptjax[eval]'`") from error

    class GptJax(Adapter, LM):
        pass

    if "gptjax" not in model_registry:
        model_registry.register("gptjax", target=GptJax)
    return model_registry.get("gptjax")


def main() -> None:
    """lm_eval's command line."""
    try:
        _registered()
    except ValueError as error:
        print(f"gptjax: {error}", file=sys.stderr)
        sys.exit(2)
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()


if __name__ == "__main__":
    main()
