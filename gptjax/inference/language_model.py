"""Text from a model: a run loaded, prompts continued, stop strings obeyed, whole characters streamed.

Axes: B batch  T position  V vocabulary (padded rows).
"""

import contextlib
import dataclasses
import functools
import itertools
import numbers
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gptjax import arguments
from gptjax.config import ModelConfig
from gptjax.decoding.engine import Ended, Engine, Event, Failed, Request, Said, Token
from gptjax.decoding.padding import padded_length
from gptjax.decoding.sampling import Sampling
from gptjax.inference.class_scoring import class_log_probs
from gptjax.inference.embedding import features, mean_states
from gptjax.inference.feature_input import FINAL, Layer, Pooling
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.head_input import TextOrTwo
from gptjax.inference.predicting import Prediction, predict
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.scoring import Progress, Row, ScoreOptions, Scores, View, log_probs, score
from gptjax.inference.text_likelihood import Continuation, loglikelihood, loglikelihood_rolling, perplexity
from gptjax.look.looking import Look, look
from gptjax.nn.decoding_weights import decoding_weights, fastest_dtype, rounded
from gptjax.nn.model import Transformer
from gptjax.results import Result
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

CACHE_SLOTS = 32_768  # tokens that the key/value caches of texts written together may hold
MOST_ROWS = 16  # texts written together

# text, or token ids that are taken as they are, without a BOS in front
Prompt = str | Sequence[int] | np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation of one prompt."""

    text: str  # up to the stop string, which is not part of it
    ids: tuple[int, ...]  # every token that was drawn, the one that ended it included
    # of each of them, nats, as the model believes: no temperature, bias or other setting. Last bits depend on the batch
    log_probs: tuple[float, ...] = dataclasses.field(compare=False)
    ended: Literal["stop", "eos", "length", "context full"]


class LanguageModel:
    """A model with its tokenizer. `gptjax.load` makes one of a run; a training loop makes one of its parameters.

    >>> model.generate(["Once upon a time", "Two"], samples=2, tokens=100, temperature=0.7, stop=("\\n",))[1][0].text
    >>> for piece in model.stream("Once upon a time"):
    ...     print(piece, end="")
    >>> model.loglikelihood([("The city of", " London")])[0].log_prob  # nats
    >>> model.perplexity(["A whole text."]).table()
    >>> model.predict(["A whole text."], "topic")[0].answer  # by an output head that it was taught

    It can be copied and pickled, parameters and all; one that is spread over a mesh can only be copied.

    `generation_config`: how its texts begin and end, and how it talks; by default as this package trains.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        params: Any,
        *,
        generation_config: GenerationConfig | None = None,
        dtype: Any = "float32",
        mesh: Any = None,
    ):
        self.config, self.tokenizer, self.params = config, tokenizer, params
        self.generation_config = GenerationConfig.of_runs(tokenizer) if generation_config is None else generation_config
        self.step: int | None = None  # of the checkpoint it was loaded from
        # the directory of the run whose weights these are, and which of them; None = of no run, or changed since
        self.run: Path | None = None
        self.weights: Literal["trained", "ema"] = "trained"
        self.credit: str | None = None  # Markdown: whose texts it has read, and under which licences
        self.mesh = mesh
        self.dtype = arguments.dtype_name(dtype)
        int8 = self.dtype == "int8"
        self._model = Transformer(config, dtype=jnp.dtype(fastest_dtype() if int8 else self.dtype))
        self._scored = rounded(params) if int8 else params  # the weights that texts are scored with
        self._decoding: tuple[Transformer, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decoding": None}  # made anew where it is asked for

    def __repr__(self) -> str:
        config = self.config
        heads = ", ".join(head.name for head in config.class_heads)
        return (
            f"<LanguageModel: {config.family}, {config.parameters:,} parameters, context of {config.T} tokens, "
            f"vocabulary of {config.vocabulary:,}{f', class heads {heads}' if heads else ''}>"
        )

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, samples: int = 1, prefix: bool | Sequence[int] = False,
        slots: int | None = None, progress: Progress | None = None, **settings: Any,
    ) -> list[list[Sample]]:  # fmt: skip
        """`samples` continuations of every prompt: result[prompt][sample].

        `settings` are the fields of gptjax.decoding.sampling.Sampling: tokens, temperature, top_k, top_p, min_p,
        repetition_penalty, logit_bias, stop, seed.
        `prefix`: the model was trained as a prefix-LM, and each prompt's tokens see each other both ways; or of each
        prompt so many of its first ones do.
        `slots`: tokens that there is room for in each row, prompt and text; None = as many as are needed, padded. Calls
        that share them and the number of rows, a power of two, share their compiled programs, whatever the prompts.
        `progress` is told (texts done, of how many).
        A text depends on its prompt, the settings and its number among the samples, not on the other prompts; equal
        prompts get equal texts. A prompt of text begins with BOS and EOS ends every text, or as `generation_config`
        says.
        Raises ValueError if a prompt does not fit the context or has a token id beyond the vocabulary, or if
        `logit_bias` names a text that is no token.
        """
        requests = self._requests(_listed(prompts), samples, prefix, _settings(settings))
        if not requests:
            return []
        ended = itertools.count(1)
        on_end = (lambda: None) if progress is None else lambda: progress(next(ended), len(requests))
        texts = [_Text(on_end) for _ in requests]
        self._engine(requests, slots).run(requests, texts)
        return [list(of_prompt) for of_prompt in itertools.batched(map(_Text.sample, texts), samples)]

    def stream(self, prompt: Prompt, *, prefix: bool | int = False, **settings: Any) -> Generator[str, None, Sample]:
        """The first sample of `generate`, piece by piece: whole characters, never a part of a stop string.

        The generator's return value is the Sample. Raises as `generate` does, at once.
        """
        of_prompts = prefix if isinstance(prefix, bool) else [prefix]
        [request] = self._requests([prompt], 1, of_prompts, _settings(settings))
        engine, text = self._engine([request], None), _Text()
        engine.submit(request, text)
        return _pieces(engine, text)

    def log_probs(self, texts: Sequence[Sequence[int]], *, view: View = "causal") -> list[np.ndarray]:
        """The log-probability of every token of each text but its first, nats: see inference/scoring.py."""
        with self.on_mesh():
            return log_probs(self._model, self._scored, texts, view=view, mask=self.tokenizer.mask)

    def score(self, rows: Iterable[Row], *, view: View = "causal", **options: Unpack[ScoreOptions]) -> list[Scores]:
        """How probable the tokens are that rows of ids ask for: see gptjax.inference.scoring.score."""
        with self.on_mesh():
            return score(self._model, self._scored, rows, view=view, **options)

    def class_log_probs(self, texts: Sequence[Sequence[int]], head: int, **options: Unpack[ScoreOptions]) -> np.ndarray:
        """What a head, by its number, tells of texts of ids: see gptjax.inference.class_scoring.class_log_probs."""
        heads = self.config.class_heads
        if not 0 <= arguments.whole("head", head) < len(heads):
            raise ValueError(f"head={head}: this model has {len(heads)}: {[one.name for one in heads]}")
        with self.on_mesh():
            return class_log_probs(self._model, self._scored, texts, head, **options)

    def predict(
        self, texts: Iterable[TextOrTwo], head: str | None = None, **options: Unpack[ScoreOptions]
    ) -> list[Prediction]:
        """What an output head tells of texts: class, labels or number: see gptjax.inference.predicting.predict.

        >>> model.predict(["What a film!", "Two hours of my life."], "verdict")[0].answer
        """
        return predict(self, texts, head, **options)

    def look(
        self, text: str | Sequence[int], *, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None,
        token: int | None = None, leave_out: int | None = None,
    ) -> Look:  # fmt: skip
        """What happens inside while it reads a text: see gptjax.look.looking.look.

        >>> model.look("Once upon a time").save("look.html")
        """
        return look(self, self._model, self._scored, text, layers=layers, heads=heads, token=token, leave_out=leave_out)

    def mean_states(self, texts: Sequence[Sequence[int]], **options: Unpack[ScoreOptions]) -> np.ndarray:
        """A vector for each text of ids: see gptjax.inference.embedding.mean_states."""
        with self.on_mesh():
            return mean_states(self._model, self._scored, texts, **options)

    def features(
        self, texts: Iterable[str], *, layer: Layer = FINAL, pool: Pooling | None = "mean",
        bidirectional: bool = False, length: int | None = None, batch_tokens: int | None = None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """The vectors of texts, one after another, out of any layer: see gptjax.inference.embedding.features.

        >>> np.stack([*model.features(["A whole text.", "Another."], layer=3)])
        """
        return features(
            self, self._model, self._scored, texts, layer=layer, pool=pool, bidirectional=bidirectional, length=length,
            batch_tokens=batch_tokens,
        )  # fmt: skip

    def loglikelihood(self, pairs: Iterable[tuple[str, str]], **options: Unpack[ScoreOptions]) -> list[Continuation]:
        """How probable each (context, continuation) is: see gptjax.inference.text_likelihood.loglikelihood."""
        return loglikelihood(self, pairs, **options)

    def loglikelihood_rolling(self, texts: Iterable[str], **options: Unpack[ScoreOptions]) -> list[float]:
        """The log-likelihood of each text, nats: see gptjax.inference.text_likelihood.loglikelihood_rolling."""
        return loglikelihood_rolling(self, texts, **options)

    def perplexity(
        self, texts: Iterable[str], *, view: View = "causal", seed: int = 0, **options: Unpack[ScoreOptions]
    ) -> Result:
        """Nats a token, perplexity and bits a byte over texts: see gptjax.inference.text_likelihood.perplexity."""
        return perplexity(self, texts, view=view, seed=seed, **options)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """BOS, if texts begin with it or there is none, and the tokens of a text; ids as they are.

        Raises ValueError beyond the context or the vocabulary.
        """
        if isinstance(prompt, str):
            [ids] = encode_prompts(self.tokenizer, self.generation_config, [arguments.text("a prompt", prompt)])
        else:
            ids = arguments.token_ids("a prompt", prompt)
        if not 1 <= len(ids) <= self.config.T:
            raise ValueError(f"a prompt has {len(ids)} tokens; this model's context holds from 1 to {self.config.T}")
        for id in ids:
            if not 0 <= id < self.config.vocabulary:
                raise ValueError(f"a prompt has token id {id}, beyond the vocabulary of {self.config.vocabulary}")
        return ids

    def _requests(
        self, prompts: Sequence[Prompt], samples: int, prefix: bool | Sequence[int], sampling: Sampling
    ) -> list[Request]:
        """One for each sample of each prompt."""
        if arguments.whole("samples", samples) < 1:
            raise ValueError(f"samples={samples}: must be at least 1")
        encoded = [tuple(self.encode_prompt(prompt)) for prompt in prompts]
        self.bias(sampling.logit_bias)  # refuses what is no token
        seen = [len(ids) * prefix for ids in encoded] if isinstance(prefix, bool) else prefix
        return [
            Request(prompt=ids, sampling=sampling, sample=sample, prefix=count)
            for ids, count in zip(encoded, seen, strict=True)
            for sample in range(samples)
        ]

    def _engine(self, requests: Sequence[Request], slots: int | None) -> Engine:
        """One with room for these requests, few of them at once. Every power of two is compiled once."""
        context = room(max(len(one.prompt) for one in requests), requests[0].sampling.tokens, slots, self.config.T)
        rows = max(1, min(1 << (len(requests) - 1).bit_length(), MOST_ROWS, CACHE_SLOTS // context))
        return Engine(self, rows=rows, context=context)

    def decoding(self) -> tuple[Transformer, Any]:
        """The network and the weights that texts are written with; made once."""
        if self._decoding is None:
            # over several devices the layers stay a stack, as training has them
            laid_out = self.mesh is None and jax.default_backend() == "cpu"
            parts = (1,) * self.config.L if laid_out else None
            network = self._model.clone(parts=parts, turned=laid_out or self.dtype == "int8")
            made = functools.partial(decoding_weights, dtype=jnp.dtype(self.dtype), laid_out=laid_out)
            with self.on_mesh():
                self._decoding = network, jax.jit(made)(self.params) if network.turned else made(self.params)
        return self._decoding

    def bias(self, by_token: Mapping[int | str, float | int]) -> Float[np.ndarray, "V"]:
        """What is added to every token's score. A text's bias goes to every token that stands for this text.

        Raises ValueError for a text that is no token, and an id beyond the vocabulary.
        """
        bias_V = np.zeros(self.config.V, np.float32)
        ids = {token: by for token, by in by_token.items() if not isinstance(token, str)}
        for token, by in by_token.items():
            if isinstance(token, str):
                bias_V[self.tokenizer.ids_of(token)] += by
        if ids:
            id_I = np.fromiter(ids, np.int64)
            if (beyond := id_I[(id_I < 0) | (id_I >= self.config.vocabulary)]).size:
                raise ValueError(
                    f"logit_bias: token id {beyond[0]} is beyond the vocabulary of {self.config.vocabulary}"
                )
            bias_V[id_I] += np.fromiter(ids.values(), np.float32)
        return bias_V

    def on_mesh(self) -> Any:
        """A context in which arrays lie on the model's mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


def _settings(named: Mapping[str, Any]) -> Sampling:
    known = [field.name for field in dataclasses.fields(Sampling)]
    for name in named:
        if name not in known:
            raise ValueError(f"unknown setting {name!r}{did_you_mean(name, known)}")
    return Sampling(**named)


def _listed(prompts: Any) -> list[Prompt]:
    """Several prompts, or one alone, as a list of them."""
    if isinstance(prompts, str) or getattr(prompts, "ndim", 0) == 1:
        return [prompts]
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
        raise ValueError(f"prompts: must be text, token ids or a list of such, not {arguments.kind(prompts)}")
    found = list(prompts)
    if found and (isinstance(found[0], numbers.Number) or getattr(found[0], "ndim", None) == 0):
        return [found]
    for one in found:
        if isinstance(one, Mapping):
            raise ValueError(
                "prompts: a conversation is no prompt; gptjax.inference.chat.Chat talks, by the model's template"
            )
    return found


def room(longest: int, tokens: int, slots: int | None, T: int) -> int:
    """Tokens that a row needs room for, padded so that few are compiled; or `slots`, if they suffice."""
    need = min(longest + tokens, T)
    if slots is None:
        return padded_length(need, T)
    slots = arguments.whole("slots", slots)
    if not need <= slots <= T:
        raise ValueError(f"slots={slots}: must be from {need}, which are needed, to the context of {T}")
    return slots


class _Text:
    """Listens to the events of one text."""

    def __init__(self, on_end: Callable[[], None] = lambda: None):
        self._on_end = on_end
        self.new: list[str] = []  # pieces that were not handed on yet
        self.ended: Any = None
        self._pieces: list[str] = []
        self._tokens: list[Token] = []

    def __call__(self, event: Event) -> None:
        match event:
            case Said(text, tokens):
                self.new += [text] if text else []
                self._pieces.append(text)
                self._tokens += tokens
            case Ended(reason):
                self.ended = reason
                self._on_end()
            case Failed(error):
                raise error

    def sample(self) -> Sample:
        ids, log_probs = tuple(one.id for one in self._tokens), tuple(one.log_prob for one in self._tokens)
        return Sample("".join(self._pieces), ids, log_probs, self.ended)


def _pieces(engine: Engine, text: _Text) -> Generator[str, None, Sample]:
    while text.ended is None:
        engine.turn()
        yield from text.new
        text.new.clear()
    return text.sample()
