"""data.spec: sources, rates and the split, as a person writes them."""

import pytest

from data.rows.mixture import RATE_UNIT
from data.spec import DataSpec


@pytest.mark.parametrize(
    "sources",
    [
        ("a",),
        ("a", "b", "c"),
        ("a=0.7", "b=0.2", "c=0.1"),
        ("a=1", "b=5000"),
        ("a=3", "b=3", "c=1e-2"),
        tuple(f"s{n}={n + 1}" for n in range(40)),
        tuple(f"s{n}" for n in range(RATE_UNIT)),
    ],
    ids=lambda sources: f"{len(sources)} from {sources[0]}",
)
def test_rates_sum_to_1024_and_leave_no_source_out(sources):
    """Every row of a cycle has a source, and each source is within a row of its share, or has its one row."""
    spec = DataSpec(sources=sources)
    rates = spec.rates
    assert sum(rates.values()) == RATE_UNIT
    total = sum(share for _, share in spec.shares)
    for name, share in spec.shares:
        exact = share / total * RATE_UNIT
        assert rates[name] >= 1
        assert abs(rates[name] - exact) <= 1 or exact < 1


def test_a_source_raised_to_its_one_row_gets_no_second():
    """A share of 0.9 rows is laid out as 1; the row that is left over goes to who is owed it."""
    assert DataSpec(sources=("a=0.9", "b=511.5", "c=511.6")).rates == {"a": 1, "b": 511, "c": 512}


def test_equal_shares_when_rates_are_left_out():
    """Two sources without a rate have half each; a rate of 3 beside none is three quarters."""
    assert DataSpec(sources=("a", "b")).rates == {"a": 512, "b": 512}
    assert DataSpec(sources=("a=3", "b")).rates == {"a": 768, "b": 256}


@pytest.mark.parametrize(
    ("source", "share"),
    [
        ("files:/x/lr=high/*.txt", ("files:/x/lr=high/*.txt", 1.0)),
        ("files:/x/k=v.txt=2.5", ("files:/x/k=v.txt", 2.5)),
        ("files:/x/lr=0.1=1", ("files:/x/lr=0.1", 1.0)),
        ("tfds:wikipedia/20230601.en=0.25", ("tfds:wikipedia/20230601.en", 0.25)),
    ],
)
def test_a_path_may_hold_an_equals_sign(source, share):
    """Only a number after the last one is a rate."""
    assert DataSpec(sources=(source,)).shares == (share,)


@pytest.mark.parametrize(
    ("text", "split"), [("hash 0.05", ("hash", 0.05)), ("tail 0.1", ("tail", 0.1)), ("  tail   .5 ", ("tail", 0.5))]
)
def test_a_split_is_a_way_and_a_share(text, split):
    """Spaces do not matter."""
    assert DataSpec(sources=("a",), validation=text).split == split


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"sources": ()}, ("data.sources", "empty", "chitchat")),
        ({"sources": ("a", "b", "a=2")}, ("['a']", "twice")),
        ({"sources": ("a=0",)}, ("'a=0'", "positive")),
        ({"sources": ("a=-1",)}, ("'a=-1'", "positive")),
        ({"sources": ("a=nan",)}, ("'a=nan'", "positive")),
        ({"sources": ("a=inf",)}, ("'a=inf'", "positive")),
        ({"sources": ("=0.5",)}, ("'=0.5'", "NAME=RATE")),
        ({"sources": ("a=1", "b=1", "c=1e6")}, ("1/1024", "1000000.0")),
        ({"sources": tuple(f"s{n}" for n in range(1025))}, ("1/1024",)),
        ({"mixture": "uniform"}, ("data.mixture='uniform'", "proportional")),
        ({"sources": ("a=2", "b"), "mixture": "unimax 4"}, ("data.mixture='unimax 4'", "['a=2']", "leave out")),
        ({"vocabulary": 299}, ("data.vocabulary=299", "300")),
        ({"tokenizer": "bep"}, ("data.tokenizer='bep'", "bpe, characters, bytes, gpt2", "tokenizer.json")),
        *(
            ({"validation": v}, (f"data.validation={v!r}", "tail 0.1"))
            for v in ("", "hash", "hash 0", "tail 1", "head 0.1", "tail x", "tail nan", "hash 0.1 2")
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_with_its_value_and_the_remedy(fields, parts):
    """Before anything slow begins."""
    with pytest.raises(ValueError, match=r"data\.") as error:
        DataSpec(**{"sources": ("a",), **fields})
    assert all(part in str(error.value) for part in parts), error.value
