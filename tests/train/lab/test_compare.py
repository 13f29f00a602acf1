"""Two recipes in turn: the ratio and its interval, the order of the rounds, and a failure that is passed on."""

import json

import pytest
from rich.console import Console

from train.lab import compare as comparing
from train.lab.compare import Comparison, compare


def measurement(ms: float, **changes) -> dict:
    return {
        "ms_per_step": ms, "tokens_per_second": 1e6 / ms, "mfu": 0.1, "input_tokens_per_second": 1e6,
        "peak_bytes": 10**8, "seconds_to_first_step": 5.0, "compile_seconds": 2.0, "step_ms": [ms], **changes,
    }  # fmt: skip


def comparison(*pairs: tuple[float, float]) -> Comparison:
    return Comparison(
        commands=("a", "b --compute.dtype float32"),
        rounds=tuple((measurement(a), measurement(b)) for a, b in pairs),
    )


def test_what_slows_both_of_a_round_moves_neither_ratio_nor_interval():
    """Rounds at three speeds of the machine, B twice A in each: exactly 2. Where rounds differ the interval is wide."""
    assert comparison((10, 20), (15, 30), (40, 80)).ratio("ms_per_step") == pytest.approx((2, 2, 2))
    ratio, low, high = comparison((10, 20), (10, 30), (10, 20)).ratio("ms_per_step")
    assert low < 2 < ratio < 3 < high


def test_the_interval_is_students():
    """Log ratios 0, 1 and 2: mean 1, standard error 1/sqrt(3), t(0.975, 2) = 4.3027."""
    rounds = comparison((1, 1), (1, 2.718281828), (1, 7.389056099))
    ratio, low, high = rounds.ratio("ms_per_step")
    assert ratio == pytest.approx(2.718281828)
    assert high / ratio == pytest.approx(2.718281828 ** (4.30265 / 3**0.5), rel=1e-4)
    assert low * high == pytest.approx(ratio**2)


def test_rounds_alternate_and_every_measurement_is_its_own_process_with_its_recipes_cache(monkeypatch):
    calls = []

    def run(command, *, env, **_):
        calls.append((command, env["JAX_COMPILATION_CACHE_DIR"]))
        options = dict(zip(command[-4::2], command[-3::2], strict=True))
        with open(options["--json"], "w") as file:
            json.dump(measurement(10.0 if "first" in command else 30.0, step_ms=[1.0] * int(options["--steps"])), file)
        return comparing.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(comparing.subprocess, "run", run)
    found = compare(["first"], ["second", "--model.D", "64"], steps=7, rounds=3)
    order = ["A" if "first" in command else "B" for command, _ in calls]
    assert "".join(order) == "ABBAAB"
    assert len({cache for _, cache in calls}) == 2  # what A compiled, B must not find
    assert found.ratio("ms_per_step") == pytest.approx((3, 3, 3))
    told = json.loads(json.dumps(found.as_json()))
    assert told["b_over_a"]["ms_per_step"]["ratio"] == pytest.approx(3)
    assert told["b"]["command"] == "second --model.D 64"
    console = Console(record=True, width=120)
    console.print(found.table())
    assert "median of 3 rounds in turn" in console.export_text()


def test_a_measurement_that_fails_ends_the_comparison_by_name():
    """A real process: the recipe does not exist."""
    with pytest.raises(ValueError, match="bench no-such-recipe` failed"):
        compare(["no-such-recipe"], ["characters"], steps=2, rounds=1)
