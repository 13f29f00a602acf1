"""Text from a model: a run loaded, prompts continued, stop strings obeyed, whole characters streamed.

Axes: B batch  T position  V vocabulary (padded rows).
"""

import contextlib
import dataclasses
import itertools
import math
import numbers
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gptjax import arguments
from gptjax.config import ModelConfig
from gptjax.inference.class_scoring import class_log_probs
from gptjax.inference.decode import Choice, decode, prefill, repeat_rows
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.padding import padded_length
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.sampling import Sampling
from gptjax.inference.scoring import Row, ScoreOptions, Scores, View, log_probs, score
from gptjax.inference.text_likelihood import Continuation, loglikelihood, loglikelihood_rolling, perplexity
from gptjax.mesh_axes import row_axes
from gptjax.nn.model import Transformer
from gptjax.results import Result
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer, stream_text

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
        self.credit: str | None = None  # Markdown: whose texts it has read, and under which licences
        self.mesh = mesh
        self._model = Transformer(config, dtype=jnp.dtype(arguments.dtype_name(dtype)))

    def __repr__(self) -> str:
        config = self.config
        heads = ", ".join(head.name for head in config.class_heads)
        return (
            f"<LanguageModel: {config.family}, {config.parameters:,} parameters, context of {config.T} tokens, "
            f"vocabulary of {config.vocabulary:,}{f', class heads {heads}' if heads else ''}>"
        )

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, samples: int = 1, prefix: bool = False, slots: int | None = None,
        **settings: Any,
    ) -> list[list[Sample]]:  # fmt: skip
        """`samples` continuations of every prompt: result[prompt][sample].

        `settings` are the fields of gptjax.inference.sampling.Sampling: tokens, temperature, top_k, top_p, min_p,
        repetition_penalty, logit_bias, stop, seed.
        `prefix`: the model was trained as a prefix-LM, and each prompt's tokens see each other both ways.
        `slots`: tokens that there is room for in each row, prompt and text; None = as many as are needed, padded. Calls
        that share them, `tokens` and the number of rows share their compiled programs, whatever the prompts.
        A text depends on its prompt, the settings and its number among the samples, not on the other prompts; equal
        prompts get equal texts. A prompt of text begins with BOS and EOS ends every text, or as `generation_config`
        says.
        Raises ValueError if a prompt does not fit the context or has a token id beyond the vocabulary, or if
        `logit_bias` names a text that is no token.
        """
        rows = self._texts(_listed(prompts), samples, prefix, _settings(settings), slots)
        return [[_whole(text) for text in texts_of_prompt] for texts_of_prompt in itertools.batched(rows, samples)]

    def stream(self, prompt: Prompt, *, prefix: bool = False, **settings: Any) -> Generator[str, None, Sample]:
        """The first sample of `generate`, piece by piece: whole characters, never a part of a stop string.

        The generator's return value is the Sample. Raises as `generate` does, at once.
        """
        return self._texts([prompt], 1, prefix, _settings(settings))[0]

    def log_probs(self, texts: Sequence[Sequence[int]], *, view: View = "causal") -> list[np.ndarray]:
        """The log-probability of every token of each text but its first, nats: see inference/scoring.py."""
        with self.on_mesh():
            return log_probs(self._model, self.params, texts, view=view, mask=self.tokenizer.mask)

    def score(self, rows: Iterable[Row], *, view: View = "causal", **options: Unpack[ScoreOptions]) -> list[Scores]:
        """How probable the tokens are that rows of ids ask for: see gptjax.inference.scoring.score."""
        with self.on_mesh():
            return score(self._model, self.params, rows, view=view, **options)

    def class_log_probs(self, texts: Sequence[Sequence[int]], head: int, **options: Unpack[ScoreOptions]) -> np.ndarray:
        """How probable the classes of texts of ids are: see gptjax.inference.class_scoring.class_log_probs."""
        heads = self.config.class_heads
        if not 0 <= arguments.whole("head", head) < len(heads):
            raise ValueError(f"head={head}: this model has {len(heads)}: {[one.name for one in heads]}")
        with self.on_mesh():
            return class_log_probs(self._model, self.params, texts, head, **options)

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

    def _texts(
        self, prompts: Sequence[Prompt], samples: int, prefix: bool, sampling: Sampling, slots: int | None = None
    ) -> list[Generator[str, None, Sample]]:
        """A generator for each sample of each prompt. They share one batch, advanced as far as any of them asks."""
        if arguments.whole("samples", samples) < 1:
            raise ValueError(f"samples={samples}: must be at least 1")
        if not prompts:
            return []
        encoded = [self.encode_prompt(prompt) for prompt in prompts]
        width, slots = shape(max(map(len, encoded)), sampling.tokens, slots, self.config.T)
        rows = self._columns(encoded, samples, prefix, sampling, self._bias(sampling.logit_bias), width, slots)
        columns = itertools.tee(rows, len(prompts) * samples)
        texts = []
        for row, column_B in enumerate(columns):
            room = self.config.T - len(encoded[row // samples]) + 1  # the last token is drawn, but needs no slot
            limit = min(sampling.tokens, room)
            ended = "length" if sampling.tokens <= room else "context full"
            texts.append(self._text(_of_row(row, itertools.islice(column_B, limit)), sampling.stop, ended))
        return texts

    def _text(
        self, drawn: Iterator[tuple[int, float]], stop: Sequence[str], otherwise: Literal["length", "context full"]
    ) -> Generator[str, None, Sample]:
        ids: list[int] = []
        log_probs: list[float] = []
        # special tokens are no text, so a stop string that names one is looked for among the ids
        stops = {id for id in self.tokenizer.special_ids if self.tokenizer.token(id) in stop}

        def until_end() -> Iterator[int]:
            for id, log_prob in drawn:
                ids.append(id)
                log_probs.append(log_prob)
                if id in self.generation_config.ends or id in stops:
                    return
                yield id

        text, said = "", 0
        for piece in stream_text(self.tokenizer, until_end()):
            text += piece
            sure, stopped = certain(text, said, stop)
            if sure > said:
                yield text[said:sure]
            said = sure
            if stopped:
                return Sample(text[:sure], tuple(ids), tuple(log_probs), "stop")
        if said < len(text):
            yield text[said:]
        ended = "eos" if ids[-1] in self.generation_config.ends else "stop" if ids[-1] in stops else otherwise
        return Sample(text, tuple(ids), tuple(log_probs), ended)

    def _columns(
        self, encoded: Sequence[Sequence[int]], samples: int, prefix: bool, sampling: Sampling, bias_V: np.ndarray,
        width: int, slots: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
        """Token ids and log-probabilities [rows], step after step; prompts are padded to `width`.

        The next step is already under way while the caller looks at this one.
        """
        with self.on_mesh():
            padded = self._divisible(encoded)
            length_B = np.array([len(ids) for ids in padded], np.int32)
            tokens_BT = np.full((len(padded), width), self.tokenizer.pad, np.int32)
            for row, ids in enumerate(padded):
                tokens_BT[row, : len(ids)] = ids
            choice = self._choice(padded, samples, sampling, bias_V)
            read = jax.device_put((tokens_BT, length_B, np.bool_(prefix)))
            state = prefill(self._model, self.params, *read, slots=slots)
            if samples > 1:
                state = repeat_rows(state, samples)
        room = self.config.T - min(len(ids) for ids in encoded) + 1
        under_way = None
        for _ in range(min(sampling.tokens, room)):
            with self.on_mesh():
                state, *drawn = decode(self._model, self.params, state, choice)
            if under_way is not None:
                yield jax.device_get(under_way)
            under_way = drawn
        yield jax.device_get(under_way)

    def _bias(self, by_token: Mapping[int | str, float | int]) -> Float[np.ndarray, "V"]:
        """What is added to every token's score. A text's bias goes to every token that stands for this text."""
        bias_V = np.zeros(self.config.V, np.float32)
        for token, bias in by_token.items():
            ids = self.tokenizer.ids_of(token) if isinstance(token, str) else [token]
            if not all(0 <= id < self.config.vocabulary for id in ids):
                raise ValueError(f"logit_bias: token id {token} is beyond the vocabulary of {self.config.vocabulary}")
            bias_V[ids] += bias
        return bias_V

    def _choice(self, encoded: Sequence[Sequence[int]], samples: int, sampling: Sampling, bias_V: np.ndarray) -> Choice:
        """A row's key comes of the seed, its prompt's tokens and its number among the samples, not of other rows."""
        sums = [zlib.crc32(np.array(ids, np.int32).tobytes()) for ids in encoded for _ in range(samples)]
        sum_B = np.array(sums, np.uint32)
        number_B = np.array([*range(samples)] * len(encoded), np.uint32)
        key_B = _row_keys(*jax.device_put((np.uint32(sampling.seed), sum_B, number_B)))
        top_k = np.int32(min(sampling.top_k or self.config.V, self.config.V))
        shares = (sampling.top_p or 1.0, sampling.min_p or 0.0, sampling.repetition_penalty or 1.0)
        settings = (np.float32(sampling.temperature), top_k, *map(np.float32, shares), bias_V)
        return Choice(key_B, *jax.device_put(settings))

    def _divisible(self, encoded: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The prompts, with copies of the first until the mesh divides their number."""
        ways = math.prod(self.mesh.shape[axis] for axis in row_axes()) if self.mesh is not None else 1
        return [*encoded, *[encoded[0]] * (-len(encoded) % ways)]

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


def shape(longest: int, tokens: int, slots: int | None, T: int) -> tuple[int, int]:
    """(tokens that prompts are padded to, slots of a row's cache), so that few are compiled.

    Every step reads the whole cache, so it is no longer than the texts can become, unless so many slots are asked for.
    """
    need = min(longest + tokens, T)
    if slots is None:
        return padded_length(longest, T), padded_length(need, T)
    slots = arguments.whole("slots", slots)
    if not need <= slots <= T:
        raise ValueError(f"slots={slots}: must be from {need}, which are needed, to the context of {T}")
    return min(slots, padded_length(max(longest, slots - tokens), T)), slots


def certain(text: str, said: int, stop: Sequence[str]) -> tuple[int, bool]:
    """How many characters of a text are sure to be before any stop string, and whether one was found behind them.

    The first `said` are known to be. An end of the text that may be the start of a stop string is not sure.
    """
    found = [place for ending in stop if (place := text.find(ending, said)) >= 0]
    if found:
        return min(found), True
    begun = [size for ending in stop for size in range(1, len(ending)) if text.endswith(ending[:size], said)]
    return len(text) - max(begun, default=0), False


@jax.jit
def _row_keys(seed, sum_B, number_B):
    of_text_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), sum_B)
    return jax.vmap(jax.random.fold_in)(of_text_B, number_B)


def _of_row(row: int, columns: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[int, float]]:
    """The id and the log-probability that each step drew for a row."""
    for id_B, log_prob_B in columns:
        yield int(id_B[row]), float(log_prob_B[row])


def _whole(text: Generator[str, None, Sample]) -> Sample:
    """Runs a text to its end."""
    while True:
        try:
            next(text)
        except StopIteration as end:
            return end.value
