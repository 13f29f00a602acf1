"""The shape of a model: its fields, the named sizes, and the `model.json` of a run. Imports neither JAX nor TensorFlow.

Axis letters, used in field names, array names and einsums of the whole package:
B batch  T query position  S key position  D residual  N query heads  K kv heads  G = N/K  H head width  F mlp width
V vocabulary (padded rows)  L layers  C classes
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from gptjax.batch import ClassHead
from gptjax.spelling import did_you_mean

FORMAT = 1  # of model.json
Family = Literal["llama", "gpt2"]
Activation = Literal["swiglu", "relu2", "gelu"]
VOCABULARY_MULTIPLE = 128  # token tables are padded to this, so that a tensor axis divides them


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary positions are slowed, so that a model reads longer texts than it was first trained on."""

    kind: Literal["linear", "llama3"] = "llama3"  # linear: every pair alike; llama3: only the slow pairs
    factor: float = 8.0  # how many times longer the texts become
    low_turns: float = 1.0  # llama3: pairs that turn less within original_T are slowed by the whole factor
    high_turns: float = 4.0  # llama3: pairs that turn more are left as they are
    original_T: int = 8192  # llama3: context of the first training, tokens

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise ValueError(
                f"model.rope_scaling.kind={self.kind!r}{did_you_mean(str(self.kind), ('linear', 'llama3'))}"
            )
        for name in ("factor", "low_turns", "high_turns", "original_T"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"model.rope_scaling.{name}={getattr(self, name)}: must be a number above 0")
        if self.low_turns >= self.high_turns:
            raise ValueError(
                f"model.rope_scaling.low_turns={self.low_turns} must be below high_turns={self.high_turns}, "
                f"such as 1 and 4"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """A trained product of two thin matrices beside each targeted weight, y = x W + scale (x A) B, where B starts at 0.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    rank: int = 8  # columns of A, rows of B
    alpha: float = 16.0  # scale is alpha / rank
    dropout: float = 0.0  # share of x dropped before A in training
    targets: tuple[str, ...] = (".*",)  # regular expressions over whole names of linear layers, such as "query|value"
    rank_stabilised: bool = False  # scale is alpha / sqrt(rank): Kalajdzievski 2023, arXiv:2312.03732, section 3

    def __post_init__(self):
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"lora.rank={self.rank!r}: must be a whole number, at least 1")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha={self.alpha}: must be a number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout={self.dropout}: must be at least 0 and below 1")
        if not self.targets:
            raise ValueError("lora.targets=(): must name linear layers, such as ('.*',) for all of them")
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"lora.targets: {pattern!r} is no regular expression ({error})") from error

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What a recipe says of its model; the tokenizer decides its vocabulary.

    `gpt2`: learned positions, LayerNorm, GELU, biases (Radford et al. 2019). `llama`: rotary positions, RMSNorm,
    grouped-query attention (Touvron et al. 2023, arXiv:2302.13971); with `swiglu` and `qk_norm`, the defaults, it is
    Hugging Face's Qwen3ForCausalLM.
    """

    family: Family = "llama"  # gpt2: learned positions, LayerNorm, GELU, biases
    T: int = 256  # longest context, tokens
    D: int = 256  # residual width
    L: int = 4  # layers
    N: int = 4  # query heads
    K: int = 4  # key/value heads; fewer than N shares each among N/K query heads
    F: int = 688  # width inside the feed-forward block
    activation: Activation = "swiglu"  # gelu for gpt2; the others for llama
    qk_norm: bool = True  # RMSNorm with a learned scale on each query and key head (llama only)
    tied: bool = True  # one table embeds tokens and scores them
    dropout: float = 0.0  # share of activations dropped in training
    window: int | None = None  # a token looks at those less than so many places away; None = at the whole row

    def __post_init__(self):
        self.architecture()  # whose checks are those of any shape

    def smallest(self) -> "Shape":
        """The same model, as a shape where it is no more than that."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        further = any(fields.get(name, default) != default for name, default in FURTHER.items())
        return self if further else Shape(**{name: fields[name] for name in fields.keys() - FURTHER.keys()})

    def architecture(self) -> "Architecture":
        """The same as an architecture, the rest of which is the default."""
        return Architecture(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @property
    def H(self) -> int:
        """Width of one head."""
        return self.D // self.N


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(Shape):
    """A shape, and all else in which published models differ. A recipe may give one in place of a shape."""

    head_width: int | None = None  # H; None = D / N
    attention_bias: bool = False  # vectors added to query, key, value and attention_out (llama; gpt2 always has them)
    qkv_bias: bool = False  # to query, key and value alone
    mlp_bias: bool = False  # to gate, up and down
    rope_theta: float = 10_000.0  # slowest rotary period over 2 pi, tokens (llama only)
    rope_scaling: RopeScaling | None = None  # None = as trained (llama only)
    # Layers without rotary positions, from 0 on (llama only). NoPE: Kazemnejad et al. 2023, arXiv:2305.19466; in some
    # layers: Yang et al. 2025, arXiv:2501.18795
    nope_layers: tuple[int, ...] = ()
    attention_cap: float | None = None  # most that an attention score can be, bent smoothly; None = no bound
    logit_cap: float | None = None  # the same for the scores of tokens
    norm_epsilon: float = 1e-6

    def __post_init__(self):
        optional = [name for name in ("head_width", "window") if getattr(self, name) is not None]
        for name in ("T", "D", "L", "N", "K", "F", *optional):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)!r}: must be a whole number, at least 1")
        if self.head_width is None and self.D % self.N:
            nearest = max(1, round(self.D / self.N)) * self.N
            raise ValueError(
                f"model.D={self.D} is not a multiple of model.N={self.N} heads; "
                f"nearest is D={nearest}, or set model.head_width"
            )
        caps = [name for name in ("attention_cap", "logit_cap") if getattr(self, name) is not None]
        for name in ("rope_theta", "norm_epsilon", *caps):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be a number above 0")
        for name, kind in (("family", Family), ("activation", Activation)):
            if getattr(self, name) not in get_args(kind):  # a model would silently leave the unknown part out
                raise ValueError(
                    f"model.{name}={getattr(self, name)!r}{did_you_mean(str(getattr(self, name)), get_args(kind))}"
                )
        if self.N % self.K:
            legal = [k for k in range(1, self.N + 1) if self.N % k == 0]
            raise ValueError(f"model.K={self.K} does not divide model.N={self.N} query heads; K may be one of {legal}")
        if self.H % 2 and self.family == "llama":
            raise ValueError(f"model.head_width={self.H} is odd; rotary positions turn pairs, so use {self.H + 1}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout}: must be at least 0 and below 1")
        if (self.family == "gpt2") != (self.activation == "gelu"):
            legal = "gelu" if self.family == "gpt2" else "swiglu or relu2"
            raise ValueError(f"model.activation={self.activation!r} with model.family={self.family!r}; use {legal}")
        if self.family == "gpt2":
            self._check_gpt2()
        if self.qkv_bias and self.attention_bias:
            raise ValueError(
                "model.qkv_bias=True with model.attention_bias=True, which adds those and one more: use one"
            )
        if list(self.nope_layers) != sorted({layer for layer in self.nope_layers if layer in range(self.L)}):
            raise ValueError(
                f"model.nope_layers={self.nope_layers}: must be numbers of layers from 0 to {self.L - 1}, ascending, "
                f"each once, such as (3, 7)"
            )

    def _check_gpt2(self) -> None:
        if self.qk_norm or self.K != self.N or self.rope_scaling or self.nope_layers:
            raise ValueError(
                f"model.family='gpt2' has no qk_norm (found {self.qk_norm}), no rope_scaling (found "
                f"{self.rope_scaling}), no nope_layers (found {self.nope_layers}) and K = N (found K={self.K}, "
                f"N={self.N})"
            )
        if biases := [name for name in ("attention_bias", "qkv_bias", "mlp_bias") if getattr(self, name)]:
            raise ValueError(f"model.family='gpt2' has biases everywhere; leave out model.{biases[0]}=True, for llama")
        if self.N * self.H != self.D:
            raise ValueError(
                f"model.D={self.D} is not heads x width = N x H = {self.N} x {self.H} = {self.N * self.H}; "
                f"make them equal"
            )

    @property
    def H(self) -> int:
        """Width of one head."""
        return self.D // self.N if self.head_width is None else self.head_width

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Width in and out of every linear layer of a block, by name."""
        attended, shared = self.N * self.H, self.K * self.H
        gate = {"gate": (self.D, self.F)} if self.activation == "swiglu" else {}
        return {
            "query": (self.D, attended), "key": (self.D, shared), "value": (self.D, shared),
            "attention_out": (attended, self.D), **gate, "up": (self.D, self.F), "down": (self.F, self.D),
        }  # fmt: skip

    @property
    def reach(self) -> int | None:
        """`window`, where a text can be longer than that; None = a token looks at the whole row."""
        return self.window if self.window is not None and self.window < self.T else None

    def biased(self, name: str) -> bool:
        """Whether a vector is added to what a linear layer of `projections` gives."""
        if name in ("gate", "up", "down"):
            return self.family == "gpt2" or self.mlp_bias
        return self.family == "gpt2" or self.attention_bias or (self.qkv_bias and name != "attention_out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Architecture):
    """A whole model, as `model.json` keeps it."""

    vocabulary: int  # token ids in use; the table has V rows
    class_heads: tuple[ClassHead, ...] = ()  # one bank of them, in this order
    lora: Lora | None = None  # None = weights alone

    @classmethod
    def of(cls, shape: Shape, vocabulary: int, heads: Sequence[ClassHead] = ()) -> "ModelConfig":
        """The model of this shape for a tokenizer of so many ids, with these heads beside that of the tokens."""
        fields = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
        return cls(**fields, vocabulary=vocabulary, class_heads=tuple(heads))

    def __post_init__(self):
        super().__post_init__()
        if self.vocabulary < 1:
            raise ValueError(f"model.vocabulary={self.vocabulary}: must be at least 1")
        names = self.projections
        for pattern in self.lora.targets if self.lora else ():
            if not any(re.fullmatch(pattern, name) for name in names):
                raise ValueError(f"lora.targets: {pattern!r} matches no linear layer{did_you_mean(pattern, names)}")

    @property
    def adapted(self) -> dict[str, tuple[int, int]]:
        """Those of `projections` that have two thin matrices beside them."""
        targets = self.lora.targets if self.lora else ()
        return {
            name: widths
            for name, widths in self.projections.items()
            if any(re.fullmatch(pattern, name) for pattern in targets)
        }

    @property
    def drops(self) -> bool:
        """Whether training draws what to leave out."""
        return self.dropout > 0 or (self.lora is not None and self.lora.dropout > 0)

    @property
    def C(self) -> int:
        """Classes that the bank of heads has room for: those of the head with most."""
        return max((len(head.classes) for head in self.class_heads), default=0)

    @property
    def attends(self) -> bool:
        """Whether a head reads a learnt mean of a text's states, by a query of its own."""
        return any(head.pool == "attention" for head in self.class_heads)

    @property
    def in_heads(self) -> int:
        """Number of values of the bank of heads."""
        return len(self.class_heads) * ((self.D + 1) * self.C + (self.D if self.attends else 0))

    @property
    def V(self) -> int:
        """Rows of the token table: `vocabulary`, padded. Padding rows never score: their logits are -inf."""
        return -(-self.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def parameters(self) -> int:
        """Number of trainable values, table padding included."""
        products = sum(width * height for width, height in self.projections.values())
        adapters = sum(width + height for width, height in self.adapted.values()) * (self.lora.rank if self.lora else 0)
        norms = 2 * self.D + (2 * self.H if self.qk_norm else 0)
        outside = self.V * self.D * (1 if self.tied else 2) + self.D
        products += sum(width for name, (_, width) in self.projections.items() if self.biased(name))
        if self.family == "gpt2":
            norms *= 2
            outside += self.T * self.D + self.D
        outside += self.in_heads
        return self.L * (products + adapters + norms) + outside

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of one training token, forward and backward.

        6 for every weight in a product, and 12 L N H T for attention's two products over a full row of T keys. Class
        heads, which few positions need, are left out.

        Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
        """
        in_no_product = (self.T * self.D if self.family == "gpt2" else 0) + (0 if self.tied else self.V * self.D)
        in_no_product += self.in_heads
        return 6 * (self.parameters - in_no_product) + 12 * self.L * self.N * self.H * self.T


_SHAPE = {field.name for field in dataclasses.fields(Shape)}
FURTHER = {  # what an architecture has beside a shape, with the defaults
    field.name: field.default for field in dataclasses.fields(Architecture) if field.name not in _SHAPE
}


def llama(*, D: int, L: int, N: int, K: int | None = None, **fields: Any) -> Shape:
    """A llama shape with heads of width D/N and a feed-forward block of 8/3 D, rounded up to a multiple of 16."""
    F = -(-8 * D // 3 // 16) * 16
    kind = Architecture if fields.keys() & FURTHER.keys() else Shape
    return kind(**{"D": D, "L": L, "N": N, "K": K or N, "F": F, **fields})


def gpt2(*, D: int, L: int, N: int, T: int = 1024) -> Architecture:
    """A GPT-2 shape: feed-forward width 4 D, epsilon 1e-5."""
    return Architecture(
        family="gpt2", T=T, D=D, L=L, N=N, K=N, F=4 * D,
        activation="gelu", qk_norm=False, norm_epsilon=1e-5,
    )  # fmt: skip


SIZES: dict[str, Callable[[], Shape]] = {
    "nano": lambda: llama(D=192, L=4, N=3, T=256),
    "mini": lambda: llama(D=384, L=6, N=6, T=256),
    "small": lambda: llama(D=768, L=12, N=12, T=1024),
    "gpt2-124m": lambda: gpt2(D=768, L=12, N=12),
    "gpt2-355m": lambda: gpt2(D=1024, L=24, N=16),
    "llama-1b": lambda: llama(D=2048, L=16, N=32, K=8, F=8192, T=2048, rope_theta=500_000.0),
    "llama-7b": lambda: llama(
        D=4096, L=32, N=32, F=11_008, T=2048, qk_norm=False, tied=False, norm_epsilon=1e-5
    ),
}  # fmt: skip


def save_model_config(config: ModelConfig, path: Path) -> None:
    """Parts that came later only where they are on: a gptjax from before one reads a file without, else refuses it."""
    fields = {"format": FORMAT, **dataclasses.asdict(config)}
    fields["class_heads"] = [{"name": head.name, **head.fields()} for head in config.class_heads]
    for name in ("lora", "qkv_bias", "nope_layers"):
        if not fields[name]:
            del fields[name]
    path.write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load_model_config(path: Path) -> ModelConfig:
    """Reads `model.json`. Raises ValueError naming the file and the field that is unknown, missing or malformed."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        found = fields.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a model.json of gptjax ({error!r})") from error
    if found != FORMAT:
        raise ValueError(f"{path}: written in format {found}, this gptjax reads {FORMAT}; use the gptjax that wrote it")
    known = {field.name: field for field in dataclasses.fields(ModelConfig)}
    for name in fields.keys() - known.keys():
        raise ValueError(f"{path}: unknown field {name!r}{did_you_mean(name, known)}")
    for name in known.keys() - fields.keys():
        default = known[name].default
        if default in (None, ()) or default is False:  # a part that is off, and was unknown when the file was written
            continue
        raise ValueError(f"{path}: field {name!r} is missing")
    for name, kind in (("rope_scaling", RopeScaling), ("lora", Lora)):
        if fields.get(name) is not None:
            try:
                fields[name] = kind(**{key: _tuple_of(value) for key, value in fields[name].items()})
            except (TypeError, AttributeError) as error:
                raise ValueError(f"{path}: field {name!r}: {error}") from error
    if not isinstance(layers := fields.get("nope_layers", []), list):
        raise ValueError(f"{path}: field 'nope_layers': {layers!r} is no list of layers' numbers")
    fields["nope_layers"] = tuple(layers)
    try:
        heads = [{"pair": False, **head} for head in fields.get("class_heads", ())]
        fields["class_heads"] = tuple(ClassHead.of(head.pop("name"), head) for head in heads)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: field 'class_heads': not a list of heads with names ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"{path}: field 'class_heads': {error}") from error
    return ModelConfig(**fields)


def _tuple_of(value: Any) -> Any:
    """A list of JSON as the tuple that was written."""
    return tuple(value) if isinstance(value, list) else value
