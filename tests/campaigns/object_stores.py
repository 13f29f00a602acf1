"""Runs on buckets: SIGKILLs at every request of a save, several owners at once, and errors that a store answers with.

`python -m tests.campaigns.object_stores [KILLS]` on the store of tests/loopback_store.py, as S3 and as Google's.
Exit status 1 where a step was lost, half of one taken for a step, or an error passed in silence.
"""

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gptjax.files import buckets
from gptjax.files.buckets import BucketError
from gptjax.files.places import place_of_run
from gptjax.runs.bucket_run import BucketRun
from gptjax.runs.manifest import describe, verify, write_manifest
from tests.loopback_store import Asked, Fault, LoopbackStore, failing
from train.supervision import bucket_lease
from train.supervision.bucket_lease import BucketLease
from train.supervision.lease import LeaseTakenError

OLD, NEW = 10, 20  # steps: saved, and being saved
QUICK = {"max_retries": 3, "initial_delay": "20ms", "max_delay": "50ms"}


def made_step(folder: Path, step: int) -> Path:
    """A step of sixteen small files, as Orbax lays them out, and its manifest."""
    names = ("_METADATA", "manifest.ocdbt", *(f"d/{letter}" for letter in "abcdef"))
    for tree, name in itertools.product(("params", "training"), names):
        path = folder / str(step) / tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{step} {tree} {name} ".encode() * 500)
    files = {path.relative_to(folder / str(step)).as_posix(): path for path in (folder / str(step)).rglob("*")}
    listed = {name: describe(path) for name, path in sorted(files.items()) if path.is_file()}
    write_manifest(folder / str(step), step, {}, listed)
    return folder / str(step)


def save(url: str, environment: dict[str, str], folder: Path, cache: Path) -> None:
    """What a process does to a run, from taking it to giving it back: one step saved, one old one deleted."""
    os.environ.update(environment | {"GPTJAX_CACHE": str(cache)})
    buckets.RETRIES = QUICK
    lease = owner(url)
    lease.begin(quiet)
    (lease.on_bucket.copy / "metrics.jsonl").write_text("a line\n")
    lease.publish(NEW, folder / str(NEW))
    lease.withdraw(5)
    lease.release_bucket()


def owner(url: str) -> BucketLease:
    return BucketLease(BucketRun(place_of_run(url, "own")))


def quiet(_: str) -> None:
    pass


def fresh(store: LoopbackStore, scheme: str, folder: Path) -> str:
    """A run of two steps on a bucket of its own."""
    url = f"{scheme}://{store.bucket()}/runs/big"
    run = BucketRun(place_of_run(url, "own"))
    for step in (5, OLD):
        run.publish(step, folder / str(step), lambda: None)
    return url


def wrong_with(url: str, must_hold_new: bool) -> str | None:
    """What a reader on another machine finds wrong with a run; None = nothing."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GPTJAX_CACHE"] = cache
        seen = BucketRun(place_of_run(url))
        found = seen.steps()
        if OLD not in found or (must_hold_new and NEW not in found):
            return f"lost: there are {found}"
        for step in set(found) & {OLD, NEW}:
            try:
                seen.fetch_step(step)
                verify(seen.copy, step)
            except ValueError as error:
                return f"taken for whole: {error}"
    return None


class Killer:
    """SIGKILL at the n-th request of a save, which begins as records are sent; none is answered from there on.

    `after`: once it was carried out, else before it is.
    """

    def __init__(self, pid: Callable[[], int], at: int, after: bool):
        self._pid, self._at, self._after = pid, at, after
        self._first: int | None = None
        self.done = threading.Event()

    def __call__(self, asked: Asked) -> Fault | None:
        if self._first is None and asked.key.endswith("metrics.jsonl"):
            self._first = asked.number
        if self._first is None or asked.number < self._first + self._at - 1:
            return None
        if self.done.is_set():
            return Fault(drop=True, status=500)
        os.kill(self._pid(), signal.SIGKILL)
        self.done.set()
        return Fault(drop=True, after=True) if self._after else Fault(drop=True, status=500)


def kills(store: LoopbackStore, folder: Path, wanted: int) -> list[str]:
    """SIGKILL at the n-th request of a process, before it is answered or after it was carried out; n = 1, 2, ..."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.campaigns.object_stores"])
    wrong, count, whole = [], 0, 0
    cases = [(scheme, after, iter(range(1, 1000))) for scheme in ("s3", "gs") for after in (False, True)]
    while cases and count < wanted:
        scheme, after, numbers = case = cases.pop(0)
        at, cache = next(numbers), Path(tempfile.mkdtemp())
        os.environ["GPTJAX_CACHE"] = str(cache / "first")
        url = fresh(store, scheme, folder)
        process = context.Process(target=save, args=(url, store.environment, folder, cache / "copy"))
        kill = Killer(lambda whom=process: whom.pid or 0, at, after)
        with failing(store, kill):
            process.start()
            process.join()
        if not kill.done.is_set():  # it has ended before that many requests
            wrong += [f"{scheme}: exit code {process.exitcode}"] * (process.exitcode != 0)
            continue
        cases.append(case)
        count += 1
        found = wrong_with(url, must_hold_new=False)
        whole += NEW in steps_there(url)
        os.environ["GPTJAX_CACHE"] = str(cache / "next")
        save(url, store.environment, folder, cache / "next")  # the next start: takes over, and saves the same step
        found = found or wrong_with(url, must_hold_new=True)
        wrong += [f"{scheme}, request {at}, {'after' if after else 'before'} it: {found}"] if found else []
        shutil.rmtree(cache)
    print(f"{count} kills, the new step was there after {whole} of them; wrong: {len(wrong)}")
    return wrong


def steps_there(url: str) -> list[int]:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GPTJAX_CACHE"] = cache
        return BucketRun(place_of_run(url)).steps()


def owners(store: LoopbackStore, folder: Path) -> list[str]:
    """Four at once, of four machines, ten times; then the same of a run whose owner is dead."""
    wrong = []
    for scheme, dead in itertools.product(("s3", "gs"), (False, True)):
        for _ in range(10):
            os.environ["GPTJAX_CACHE"] = tempfile.mkdtemp()
            url = fresh(store, scheme, folder)
            if dead:
                before = owner(url)
                before._over.set()
                before._sign = before._sign.__class__(**{**vars(before._sign), "machine": "gone"})
                before.take_bucket(quiet)
            several = [owner(url) for _ in range(4)]
            for number, one in enumerate(several):
                one._sign = one._sign.__class__(**{**vars(one._sign), "machine": f"machine {number}"})
            with ThreadPoolExecutor(4) as threads:
                taken = list(threads.map(_took, several))
            if taken.count(True) != 1:
                wrong.append(f"{scheme}: {taken.count(True)} owners at once")
            for one in several:
                one.release_bucket()
    print(f"40 times four owners at once; wrong: {len(wrong)}")
    return wrong


def _took(lease: BucketLease) -> bool:
    try:
        lease.take_bucket(quiet)
        return True
    except LeaseTakenError:
        return False


def errors(store: LoopbackStore, folder: Path) -> list[str]:
    """What a store may answer with, for a while and for good, while a step is saved and while one is fetched."""
    buckets.STALL, buckets.PATIENCE = 2, 8.0
    wrong, count = [], 0
    kinds = {
        "500": Fault(status=500), "503": Fault(status=503), "429": Fault(status=429), "dropped": Fault(drop=True),
        "done, then dropped": Fault(drop=True, after=True), "done, then 500": Fault(status=500, after=True),
        "cut short": Fault(cut=2), "slow": Fault(wait=0.2), "refused": Fault(status=403), "hangs": Fault(wait=12.0),
    }  # fmt: skip
    acts: dict[str, Callable[[str], object]] = {
        "save": lambda url: BucketRun(place_of_run(url, "own")).publish(NEW, folder / str(NEW), lambda: None),
        "fetch": lambda url: BucketRun(place_of_run(url)).fetch_newest(quiet),
    }
    for scheme, (name, fault), (doing, act) in itertools.product(("s3", "gs"), kinds.items(), acts.items()):
        for for_good in (False, True) if name not in ("slow", "hangs") else (False,):
            os.environ["GPTJAX_CACHE"] = tempfile.mkdtemp()
            url = fresh(store, scheme, folder)
            met = _some(len(store.asked), fault, for_good)
            told, newest = None, None
            with failing(store, met):
                try:
                    newest = act(url)
                except BucketError as error:
                    told = str(error)
            count += 1
            harmless = for_good is False and name not in ("refused", "hangs")
            found = wrong_with(url, must_hold_new=doing == "save" and told is None)
            silent = doing == "fetch" and told is None and newest != OLD
            if found or silent or (told is not None and harmless):
                wrong.append(f"{scheme}, {doing}, {name}, {'for good' if for_good else 'for a while'}: {found or told}")
    print(f"{count} injected errors; wrong: {len(wrong)}")
    return wrong


def _some(first: int, fault: Fault, for_good: bool) -> Callable[[Asked], Fault | None]:
    """The fault at the third and fourth request, or from the third on."""
    return lambda asked: fault if asked.number > first + 2 and (for_good or asked.number <= first + 4) else None


def main() -> int:
    os.environ["PYTHONWARNINGS"] = "ignore"  # of what each process imports twice
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    buckets.RETRIES, bucket_lease.HEARTBEAT, bucket_lease.STALE = QUICK, 0.2, 2.0
    folder = Path(tempfile.mkdtemp())
    for step in (5, OLD, NEW):
        made_step(folder, step)
    with LoopbackStore() as store:
        os.environ.update(store.environment)
        wrong = [*kills(store, folder, wanted), *owners(store, folder), *errors(store, folder)]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
