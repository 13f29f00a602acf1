"""Models for lm_eval, in process: its own command line, which knows them, and `lm` for Python.

    python -m gptjax.harness run --model gptjax --model_args pretrained=runs/first --tasks quiz --include_path tasks/

Needs the extra `eval`; nothing else of gptjax imports lm_eval.

Source: lm_eval 0.4.13, lm_eval/api/model.py, class LM.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gptjax
from gptjax.chat import LINES
from gptjax.evaluate import continued
from gptjax.progress import bar
from gptjax.text_likelihood import continuations, encoded_pairs, rolling

if TYPE_CHECKING:
    from gptjax.generate import LanguageModel

TOKENS = 256  # of an answer, where a task does not say
# the first that is given counts
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
PASSED_ON = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")  # settings of ours, if they sample


class Adapter:
    """What lm_eval asks of a model. `lm` joins it with lm_eval's base class.

    `pretrained`: what gptjax.load takes, or a model that is loaded already; `step`, `weights` and `dtype` go with it.
    `batch_tokens`: see gptjax.scoring.score. lm_eval's own `batch_size`, `max_batch_size` and `device` change nothing:
    scores do not depend on batches, and JAX chooses the device (JAX_PLATFORMS).
    """

    def __init__(
        self,
        pretrained: "str | LanguageModel",
        *,
        step: int | None = None,
        weights: Any = "trained",
        dtype: str = "float32",
        batch_tokens: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ):
        super().__init__()
        named = isinstance(pretrained, str)
        self.model: Any = gptjax.load(pretrained, step, weights=weights, dtype=dtype) if named else pretrained
        self._batch_tokens = batch_tokens
        self._spelt = False  # whether special tokens are spelt out in texts, as a chat template does

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        pairs = encoded_pairs(self.model, [request.args for request in requests], self._encode)
        with bar("scoring") as progress:
            found = continuations(self.model, pairs, batch_tokens=self._batch_tokens, progress=progress)
        answers = [(one.log_prob, one.greedy) for one in found]
        return self._remembered("loglikelihood", requests, answers)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        texts = self._encode([request.args[0] for request in requests])
        with bar("scoring") as progress:
            found = rolling(self.model, texts, batch_tokens=self._batch_tokens, progress=progress)
        return self._remembered("loglikelihood_rolling", requests, found)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        first = [self.model.tokenizer.bos] if self.model.habits.begins_with_bos else []
        prompts = [first + ids for ids in self._encode([request.args[0] for request in requests])]
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        said = [""] * len(requests)
        with bar("answering") as progress:
            for numbers in alike.values():
                settings = settings_of(requests[numbers[0]].args[1])
                texts = continued(self.model, [prompts[n] for n in numbers], progress=progress, **settings)
                for number, text in zip(numbers, texts, strict=True):
                    said[number] = text
        return self._remembered("generate_until", requests, said)

    @property
    def tokenizer_name(self) -> str:
        """Part of the names of files in which lm_eval keeps requests; another tokenizer or template, another name."""
        return f"gptjax-{self.model.tokenizer.fingerprint[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's template, for the record; there is one, so that a name chooses nothing."""
        return (self.model.habits.chat_template or LINES) if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, up to where the assistant speaks; special tokens typed in it stay plain text."""
        from gptjax.template import render

        if not add_generation_prompt:
            raise ValueError("gen_prefix: an answer that is begun for the model is not supported with a chat template")
        tokenizer, self._spelt = self.model.tokenizer, True
        messages = [{**message, "content": tokenizer.shielded(message["content"])} for message in chat_history]
        return render(self.model.habits.chat_template or LINES, messages, self.model.habits.names)

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes into its results."""
        return {"model_num_parameters": self.model.config.parameters, "model_step": self.model.step}

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Without the BOS that texts begin with anyway."""
        tokenizer = self.model.tokenizer
        if not self._spelt:
            return tokenizer.encode_batch(texts)
        found = [tokenizer.encode_spelt(text) for text in texts]
        drop = self.model.habits.begins_with_bos
        return [ids[1:] if drop and ids[:1] == [tokenizer.bos] else ids for ids in found]

    def _remembered(self, kind: str, requests: Sequence[Any], answers: list[Any]) -> list[Any]:
        """The answers, which lm_eval's cache has been told."""
        hook: Any = self.cache_hook  # pyright: ignore[reportAttributeAccessIssue]  the base class has it
        for request, answer in zip(requests, answers, strict=True):
            hook.add_partial(kind, request.args, answer)
        return answers


def settings_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ours for lm_eval's generation arguments. Raises ValueError for one that we do not have."""
    left = dict(asked)
    until = left.pop("until", None) or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    lengths = [length for name in LENGTH_NAMES if (length := left.pop(name, None)) is not None]
    sample = left.pop("do_sample", None)
    settings = {name: left.pop(name) for name in PASSED_ON if name in left}
    if sample is False or (sample is None and not settings.get("temperature")):
        settings = {"temperature": 0}
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
