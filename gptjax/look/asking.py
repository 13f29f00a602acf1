"""What of a model is looked at, and how much of it: checked before anything slow. Does not import JAX."""

import dataclasses
from typing import Any

from gptjax import arguments
from gptjax.config import ModelConfig
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.prompt import encode_prompts
from gptjax.text.tokenizer import Tokenizer

MOST_BYTES = 2 * 10**9  # of attention that is kept, and of what its making holds beside
# Operations that what is optional may take: a second or two of two cores. Small models read all for that.
LENS_WORK, LEFT_OUT_WORK, HIDDEN_WORK = 5e10, 2e11, 2e11
HELD = 3  # arrays of all heads of one layer that attention holds at once
LENGTHS = 64  # texts are read as if they had a multiple of so many tokens, so that few programs are compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """One text, and what of it is to be seen."""

    ids: tuple[int, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    token: int  # whose causes are looked for; one past the last = the likeliest that would follow
    leave_out: int  # context tokens that are left out in turn, the strongest by gradient first
    lens: tuple[int, ...]  # places that the logit lens reads: all, or some up to the one before `token`
    both: bool  # whether the text is read from both sides too
    hides: bool  # whether each token is hidden in turn, and found from both sides


def asked(
    config: ModelConfig, tokenizer: Tokenizer, generation_config: GenerationConfig, text: Any, *,
    layers: Any = None, heads: Any = None, token: Any = None, leave_out: Any = None,
) -> Asked:  # fmt: skip
    """What `look` is asked for, whatever callers give, checked.

    `text`: or token ids, which are taken as they are. None = all layers, all heads, the token after the text, as many
    left out as are quick.

    Raises ValueError for a text that is empty or beyond the context, a layer, head or token that is not there, and for
    more attention than MOST_BYTES, with what would fit.
    """
    ids = _ids(config, tokenizer, generation_config, text)
    chosen_layers = _numbers("layers", layers, config.L)
    chosen_heads = _numbers("heads", heads, config.N)
    size = len(ids)
    token = size if token is None else arguments.whole("token", token)
    if not 1 <= token <= size:
        raise ValueError(
            f"token={token}: must be from 1, the first that something stands before, to {size}, which is the one that "
            "would follow the text"
        )
    if leave_out is not None and arguments.whole("leave_out", leave_out) < 0:
        raise ValueError(f"leave_out={leave_out}: must be 0 or more context tokens")
    both = sees_both_ways(config, tokenizer)
    _check_memory(config, size, len(chosen_layers), len(chosen_heads), both)
    reading = work(config, size) / 3  # the forward third
    quick = int(LEFT_OUT_WORK / reading)
    places = max(1, int(LENS_WORK / (2 * config.D * config.V * len(chosen_layers))))
    return Asked(
        ids=tuple(ids),
        layers=chosen_layers,
        heads=chosen_heads,
        token=token,
        leave_out=min(token if token > 1 else 0, quick if leave_out is None else leave_out),
        lens=tuple(range(size) if size <= places else range(max(0, token - places), token)),
        both=both,
        hides=both and tokenizer.mask is not None and size > 1 and reading * (size - 1) <= HIDDEN_WORK,
    )


def sees_both_ways(config: ModelConfig, tokenizer: Tokenizer) -> bool:
    """Whether the model may have learnt to read from both sides: it knows a mask, or a head of it reads so."""
    return tokenizer.mask is not None or any(not head.causal and head.of_texts for head in config.class_heads)


def _ids(config: ModelConfig, tokenizer: Tokenizer, generation_config: GenerationConfig, text: Any) -> list[int]:
    """The tokens of a text, behind what texts begin with; ids as they are."""
    if isinstance(text, str | bytes) or not hasattr(text, "__len__"):
        found = arguments.text("text", text)
        ids = encode_prompts(tokenizer, generation_config, [found])[0] if found else []
    else:
        ids = arguments.token_ids("text", text)
    if not ids:
        raise ValueError("text: is empty; give at least one character to look at")
    if len(ids) > config.T:
        raise ValueError(f"text: has {len(ids)} tokens; this model's context holds {config.T}: give a shorter one")
    if beyond := [id for id in ids if not 0 <= id < config.vocabulary]:
        raise ValueError(f"text: has token id {beyond[0]}, beyond the vocabulary of {config.vocabulary}")
    return ids


def read_length(size: int, context: int) -> int:
    """As of how many tokens a text is read: it is padded to these."""
    return min(context, -(-size // LENGTHS) * LENGTHS)


def work(config: ModelConfig, size: int) -> int:
    """Floating-point operations of one text of so many tokens, forward and backward, as it is read: padded."""
    T = read_length(size, config.T)
    return T * (config.flops_per_token - 12 * config.L * config.N * config.H * (config.T - T))


def layers_within(config: ModelConfig, size: int, both: bool, most_bytes: int) -> tuple[int, ...]:
    """As many layers as there is room for the attention of, in all heads, over so many tokens, but at least one: spread
    evenly, the last among them."""
    few = max(1, min(config.L, _layers(config, read_length(size, config.T), config.N, both, most_bytes)))
    return tuple(config.L - 1 - number * config.L // few for number in reversed(range(few)))


def _layers(config: ModelConfig, T: int, heads: int, both: bool, most_bytes: int) -> int:
    """Layers that there is room for; below 1 where there is none."""
    return ((most_bytes // (4 * T * T) - HELD * config.N) // heads - 1) // _ways(both)


def _ways(both: bool) -> int:
    return 2 if both else 1


def _numbers(name: str, given: Any, count: int) -> tuple[int, ...]:
    """The layers or heads that were asked for, in order and each once."""
    if given is None:
        return tuple(range(count))
    if isinstance(given, str | bytes) or not hasattr(given, "__len__"):
        raise ValueError(f"{name}: must be a list of numbers, not {arguments.kind(given)}")
    found = [arguments.whole(name, number) for number in given]
    if not found:
        raise ValueError(f"{name}: is empty; give some of 0 to {count - 1}, or leave it out for all")
    if wrong := [number for number in found if not 0 <= number < count]:
        raise ValueError(f"{name}: there is no {name[:-1]} {wrong[0]}; this model has {name} 0 to {count - 1}")
    return tuple(sorted(set(found)))


def _check_memory(config: ModelConfig, size: int, layers: int, heads: int, both: bool) -> None:
    """Raises ValueError where the attention that was asked for takes too much, saying what would not."""
    T, ways = read_length(size, config.T), _ways(both)
    square = 4 * T * T
    passing = HELD * config.N * square
    need = passing + (ways * layers + 1) * heads * square
    if need <= MOST_BYTES:
        return
    takes = f"attention of {layers} layers x {heads} heads over {size} tokens takes {need / 1e9:.1f} GB"
    left = (MOST_BYTES - passing) // square  # maps that there is room for
    if left < ways + 1:
        tokens = int((MOST_BYTES / 4 / (HELD * config.N + (ways + 1) * heads)) ** 0.5) // LENGTHS * LENGTHS
        raise ValueError(f"text: {takes}, and {MOST_BYTES / 1e9:.0f} GB are allowed; give at most {tokens} tokens")
    few_layers, few_heads = _layers(config, T, heads, both, MOST_BYTES), left // (ways * layers + 1)
    remedies = []
    if few_layers >= 1:
        remedies.append(f"ask for {few_layers} layers, as in --layers {_spread(layers, few_layers)}")
    if few_heads >= 1:
        remedies.append(f"ask for {few_heads} heads, as in --heads {_spread(heads, few_heads)}")
    remedies = remedies or [f"ask for few of both, as in --layers {layers - 1} --heads 0"]
    raise ValueError(f"{takes}, and {MOST_BYTES / 1e9:.0f} GB are allowed; {', or '.join(remedies)}")


def _spread(count: int, few: int) -> str:
    """A few numbers of so many, evenly: at most four, for an example."""
    few = min(few, 4)
    return " ".join(str(number * count // few) for number in range(few))
