"""`python -m tests.campaigns.reliability`: tries every fault of tests/faults.py, and writes docs/reliability.md."""

import collections
import sys
from pathlib import Path

import pytest

from tests.faults import FAULTS
from train.supervision import exits

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"

PROMISES = {
    "Stopped and resumed, a run is bit for bit the run that was not, on the same CPU devices: parameters, average, "
    "the optimizer's state, held-out losses, rows.": "`python -m train verify-resume RECIPE`, for any recipe; "
    "`python -m tests.campaigns.kill_campaign`, with 50 kills",
    "On another mesh or number of processes it reads the same rows, and its losses differ by rounding.":
    "`python -m tests.campaigns.resharding`",
    "No row is skipped and none is read twice, over any number of restarts.": "`python -m train audit RUN`",
    "A checkpoint with a wrong byte is never used, and never deleted.": (
        "`python -m tests.campaigns.damage`, with 200 flips"
    ),
    "One job writes to a run directory.": "tests/train/supervision/test_lease.py",
    "SIGTERM and Ctrl-C save what is new, then end the run.": "tests/train/supervision/test_signals.py",
    "A run that hangs, or has lost one of its processes, ends and says where it stood.":
    "tests/train/supervision/test_watchdog.py, tests/train/supervision/test_peers.py, tests/test_faults.py",
    "A step whose loss or gradient is not a number changes nothing.": "tests/train/test_step.py",
}  # fmt: skip

TEXT = """# Reliability

What happens to a run when something goes wrong, and the tests that show it. Written by
`python -m tests.campaigns.reliability`, which tries all faults below; edit tests/faults.py and that program, not this
page.

## What a run promises

| promise | proof |
| --- | --- |
{promises}

## Exit codes

```
{codes}
```

## What is not promised

- Bits on GPU and TPU: their kernels may add in another order from one run to the next. Rows are the same.
- Bits over other versions of JAX, another processor, another mesh or other micro-batches: rounding differs.
- A run that loses a process and goes on without it: all processes end, and the same command starts them again.
- On a file system without locks, two jobs that start within the same milliseconds are not kept apart. On a bucket they
  are, if its store keeps to the conditions of writes.
- The steps since the last checkpoint, where a run is killed: `checkpoint.every` says how many that can be.
- Protection from somebody who may write to the run directory: hashes find accidents, they are no signatures.

## Faults

Right: every test of the fault passes. Wrong: one fails. Not tried: no test of it could run.

Of {count} faults: {results}.

| | fault | what is right | tests | result |
| --- | --- | --- | --- | --- |
{faults}
"""


class Outcomes:
    """A pytest plugin: what became of the tests of each fault, and of files that pytest could not read."""

    def __init__(self):
        self.tests: dict[int, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
        self._faults: dict[str, list[int]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self._faults[item.nodeid] = [number for mark in item.iter_markers("fault") for number in mark.args]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for number in self._faults[report.nodeid]:
                self.tests[number][report.nodeid.split("[")[0]].append(report.outcome)


def result(outcomes: dict[str, list[str]]) -> str:
    """Of a fault: right, wrong or not tried. `outcomes`: "passed", "failed" or "skipped", by test."""
    found = {outcome for several in outcomes.values() for outcome in several}
    if "failed" in found:
        return "**wrong**"
    return "right" if "passed" in found else "not tried"


def page(tests: dict[int, dict[str, list[str]]]) -> str:
    """docs/reliability.md. `tests`: outcomes by fault and test."""
    rows = []
    for number, fault in FAULTS.items():
        untried = f" *Not tried: {fault.untried}.*" if fault.untried else ""
        names = "<br>".join(f"`{short(test)}`" for test in sorted(tests[number]))
        rows.append(f"| {number} | {fault.what} | {fault.right}.{untried} | {names} | {result(tests[number])} |")
    results = collections.Counter(result(tests[number]).strip("*") for number in FAULTS)
    return TEXT.format(
        promises="\n".join(f"| {promise} | {proof} |" for promise, proof in PROMISES.items()),
        codes=(exits.__doc__ or "").strip().split("\n\n", 1)[1],
        count=len(FAULTS),
        results=", ".join(f"{count} {found}" for found, count in results.most_common()),
        faults="\n".join(rows),
    )


def short(test: str) -> str:
    """`test_lease.py::test_x` of "tests/train/supervision/test_lease.py::test_x"."""
    return test.rpartition("/")[2]


def main() -> int:
    outcomes = Outcomes()
    code = pytest.main(["-m", "fault", "-q", "-p", "no:cacheprovider", str(ROOT / "tests")], plugins=[outcomes])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        print(f"error: pytest ended with {code!r}; {PAGE} is left as it was", file=sys.stderr)
        return 2
    PAGE.write_text(page(outcomes.tests), encoding="utf-8")
    print(f"wrote {PAGE}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
