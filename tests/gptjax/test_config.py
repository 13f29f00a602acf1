"""gptjax.config: every count is the real one, and every mistake is named with its values and the remedy."""

import dataclasses
import itertools
import json
import runpy

import jax
import pytest

import gptjax.config
from gptjax.batch import ClassHead
from gptjax.config import SIZES, Lora, ModelConfig, RopeScaling, gpt2, llama, load_model_config, save_model_config
from gptjax.nn.model import Transformer, init_params

TINY = {"vocabulary": 60, "T": 8, "D": 16, "L": 2, "N": 4, "K": 2, "head_width": 4, "F": 24}
GPT2 = {"family": "gpt2", "activation": "gelu", "qk_norm": False, "K": 4}

LLAMAS = [
    {"K": K, "tied": tied, "qk_norm": qk_norm, "activation": activation, "head_width": H}
    for K, tied, qk_norm, activation, H in itertools.product(
        (1, 4), (True, False), (True, False), ("swiglu", "relu2"), (4, 6)
    )
]


BIASED = [
    {"attention_bias": True}, {"qkv_bias": True}, {"mlp_bias": True}, {"mlp_bias": True, "activation": "relu2"},
]  # fmt: skip


ADAPTED = [{"lora": Lora(rank=3)}, {**GPT2, "lora": Lora(rank=3, targets=("query|up",))}]


HEADS = (ClassHead(name="topic", classes=("a", "b", "c")), ClassHead(name="mood", classes=("x", "y"), pair=True))
GRADE = ClassHead(
    name="grade", classes=("grade",), kind="values", pool="attention", length=64, lowercase=True, mean=2.5, scale=0.5
)


HEADED = [{"class_heads": HEADS}, {"class_heads": (*HEADS, GRADE)}]
SHAPES = [*LLAMAS, *BIASED, GPT2, {**GPT2, "tied": False}, *ADAPTED, *HEADED]


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_parameters_is_the_number_of_values_that_init_makes(fields):
    """The formula agrees with the tree, for every family, sharing of heads, tie, QK-norm and biases."""
    config = ModelConfig(**{**TINY, **fields})
    tree = jax.eval_shape(lambda key: init_params(Transformer(config), key), jax.random.key(0))
    assert config.parameters == sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("size", "vocabulary", "published"),
    [("gpt2-124m", 50_257, 124_439_808), ("gpt2-355m", 50_257, 354_823_168), ("llama-7b", 32_000, 6_738_415_616)],
)
def test_named_sizes_are_the_published_models(size, vocabulary, published):
    """Apart from the rows that pad the token table, the count is the one that the world knows."""
    config = ModelConfig(**dataclasses.asdict(SIZES[size]()), vocabulary=vocabulary)
    assert config.parameters - (config.V - vocabulary) * config.D == published


@pytest.mark.parametrize("size", SIZES)
def test_every_named_size_can_be_built(size):
    """Its heads cover its width."""
    shape = SIZES[size]()
    assert shape.N * shape.H == shape.D


def test_flops_are_six_for_each_weight_in_a_product():
    """Untying adds a table that is only looked up, at no cost; another layer costs its weights and its attention."""
    tied, untied, deeper = (ModelConfig(**{**TINY, **fields}) for fields in ({}, {"tied": False}, {"L": 3}))
    assert tied.flops_per_token == untied.flops_per_token
    layer = deeper.parameters - tied.parameters
    assert deeper.flops_per_token - tied.flops_per_token == 6 * layer + 12 * 4 * 4 * 8


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"K": 3}, ("model.K=3", "model.N=4", "[1, 2, 4]")),
        ({"head_width": 5}, ("model.head_width=5", "use 6")),
        ({"head_width": None, "D": 18}, ("model.D=18 is not a multiple of model.N=4", "nearest is D=16")),
        ({"rope_theta": -1.0}, ("model.rope_theta=-1.0",)),
        ({"L": 0}, ("model.L=0", "at least 1")),
        ({"dropout": 1.0}, ("model.dropout=1.0", "below 1")),
        ({"vocabulary": 0}, ("model.vocabulary=0", "at least 1")),
        ({"activation": "gelu"}, ("'gelu'", "'llama'", "swiglu or relu2")),
        ({"window": 0}, ("model.window=0", "at least 1")),
        ({"attention_cap": 0.0}, ("model.attention_cap=0.0", "above 0")),
        ({**GPT2, "rope_scaling": RopeScaling()}, ("'gpt2'", "rope_scaling")),
        ({**GPT2, "qk_norm": True}, ("'gpt2'", "qk_norm", "True")),
        ({**GPT2, "K": 2}, ("K=2", "N=4")),
        ({**GPT2, "mlp_bias": True}, ("has biases everywhere", "model.mlp_bias=True")),
        ({**GPT2, "qkv_bias": True}, ("has biases everywhere", "model.qkv_bias=True")),
        ({**GPT2, "nope_layers": (1,)}, ("'gpt2'", "nope_layers (found (1,))")),
        ({"qkv_bias": True, "attention_bias": True}, ("model.qkv_bias=True", "use one")),
        ({"nope_layers": (1, 0)}, ("model.nope_layers=(1, 0)", "from 0 to 1, ascending")),
        ({"nope_layers": (2,)}, ("model.nope_layers=(2,)", "from 0 to 1")),
        ({**GPT2, "D": 20}, ("model.D=20", "4 x 4 = 16", "make them equal")),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused_with_its_values_and_the_remedy(fields, parts):
    """Nothing impossible is built, and nothing misspelt is built as something else."""
    with pytest.raises(ValueError, match=r"model\.") as error:
        ModelConfig(**{**TINY, **fields})
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"T": "256"}, ("model.T='256'", "whole number")),
        ({"D": 16.0}, ("model.D=16.0", "whole number")),
        ({"activation": "swigluu"}, ("'swigluu'", "did you mean 'swiglu'?")),
        ({"family": "lama"}, ("'lama'", "did you mean 'llama'?")),
    ],
    ids=str,
)
def test_a_wrong_type_or_choice_is_refused_outside_of_tests_too(fields, parts):
    """Tests run under a type checker, users do not: the file alone, without the hook, refuses what it cannot build."""
    unchecked = runpy.run_path(gptjax.config.__file__)["ModelConfig"]
    unchecked(**TINY)
    with pytest.raises(ValueError, match=r"model\.") as error:
        unchecked(**{**TINY, **fields})
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"factor": -2.0}, ("model.rope_scaling.factor=-2.0", "above 0")),
        ({"low_turns": 9.0}, ("model.rope_scaling.low_turns=9.0", "below high_turns=4.0")),
    ],
    ids=str,
)
def test_a_rope_scaling_that_cannot_be_is_refused(fields, parts):
    with pytest.raises(ValueError, match=r"model\.rope_scaling") as error:
        RopeScaling(**fields)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_width_that_heads_do_not_divide_is_refused_for_both_families():
    """Heads of width D/N need D to be a multiple of N."""
    for make in (llama, gpt2):
        with pytest.raises(ValueError, match=r"D=100.*N=3"):
            make(D=100, L=1, N=3)
        assert make(D=96, L=1, N=3).H == 32


def test_the_table_is_padded_to_a_multiple_of_128():
    """128 ids need no padding; one more needs 127 rows of it."""
    assert [ModelConfig(**{**TINY, "vocabulary": n}).V for n in (1, 128, 129)] == [128, 128, 256]


def test_model_json_round_trips(tmp_path):
    """What was saved is what is loaded, field by field, none of them a default."""
    config = ModelConfig(**{**TINY, **GPT2, "norm_epsilon": 3e-5, "dropout": 0.1, "tied": False, "rope_theta": 7.0})
    save_model_config(config, tmp_path / "model.json")
    assert load_model_config(tmp_path / "model.json") == config
    assert config != ModelConfig(**TINY)
    long = ModelConfig(
        **TINY, mlp_bias=True, qkv_bias=True, nope_layers=(1,), window=9, attention_cap=50.0, logit_cap=30.0,
        rope_scaling=RopeScaling(factor=2.0),
    )  # fmt: skip
    save_model_config(long, tmp_path / "model.json")
    assert load_model_config(tmp_path / "model.json") == long
    adapted = ModelConfig(
        **TINY, lora=Lora(rank=3, alpha=5.0, dropout=0.1, targets=("query", "up|down"), rank_stabilised=True)
    )
    save_model_config(adapted, tmp_path / "model.json")
    assert load_model_config(tmp_path / "model.json") == adapted


def test_heads_round_trip_and_a_model_json_from_before_their_fields_still_loads(tmp_path):
    """Of a head that has none of the later fields, the file says what it always said."""
    path = tmp_path / "model.json"
    config = ModelConfig(**TINY, class_heads=(*HEADS, GRADE))
    save_model_config(config, path)
    assert load_model_config(path) == config
    fields = json.loads(path.read_text())
    assert fields["class_heads"][1] == {"name": "mood", "classes": ["x", "y"], "pair": True}
    fields["class_heads"] = [{"name": "topic", "classes": ["a", "b", "c"]}]  # before there were pairs
    path.write_text(json.dumps(fields))
    assert load_model_config(path) == ModelConfig(**TINY, class_heads=HEADS[:1])


def test_a_model_json_says_nothing_of_later_parts_where_there_are_none(tmp_path):
    """A gptjax from before adapters, or layers without positions, reads it, and refuses one with them by the field."""
    path = tmp_path / "model.json"
    save_model_config(ModelConfig(**TINY), path)
    assert not {"lora", "qkv_bias", "nope_layers"} & json.loads(path.read_text()).keys()
    save_model_config(ModelConfig(**TINY, lora=Lora(), nope_layers=(1,)), path)
    assert json.loads(path.read_text())["lora"]["rank"] == 8
    assert json.loads(path.read_text())["nope_layers"] == [1]


def test_a_model_json_from_before_a_part_existed_is_a_model_without_it(tmp_path):
    """Fields that are off by default may be missing; all others may not."""
    path = tmp_path / "model.json"
    save_model_config(ModelConfig(**TINY), path)
    fields = json.loads(path.read_text())
    for name in ("window", "attention_cap", "logit_cap", "rope_scaling"):
        assert fields.pop(name) is None
    for name in ("attention_bias", "mlp_bias"):
        assert fields.pop(name) is False
    path.write_text(json.dumps(fields))
    assert load_model_config(path) == ModelConfig(**TINY)


@pytest.mark.fault(14, 50)
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"dropuot": 0.1}, ("unknown field 'dropuot'", "did you mean 'dropout'?")),
        ({"zzz": 1}, ("unknown field 'zzz'", "known: ")),
        ({"D": None}, ("field 'D' is missing",)),
        ({"format": 2}, ("format 2", "reads 1")),
        ({"format": None}, ("not a model.json",)),
        ({"lora": {"rnk": 3}}, ("field 'lora'", "rnk")),
        ({"lora": 3}, ("field 'lora'",)),
        ({"nope_layers": 3}, ("field 'nope_layers'", "3")),
        ({"class_heads": [{"classes": ["a"]}]}, ("field 'class_heads'", "names")),
        ({"class_heads": [{"name": "mood", "classes": ["a"], "kind": "clases"}]}, ("head 'mood'", "mean 'classes'")),
    ],
    ids=str,
)
def test_a_model_json_of_another_kind_is_named(tmp_path, change, parts):
    """The error holds the file and the field; None in `change` removes a field."""
    path = tmp_path / "model.json"
    save_model_config(ModelConfig(**TINY), path)
    fields = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    with pytest.raises(ValueError, match=r"model\.json") as error:
        load_model_config(path)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.fault(4, 16)
@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"\xff"], ids=str)
def test_a_file_that_is_no_model_json_is_named(tmp_path, content):
    """Broken JSON, another kind of JSON and no text at all are one error."""
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.json: not a model\.json"):
        load_model_config(tmp_path / "model.json")
