"""gptjax.runs.checkpoint: a step is there whole or not at all, and what comes back is what went in."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.runs.checkpoint import CheckpointWriter, refuse_nonfinite, restore
from gptjax.runs.manifest import MANIFEST, manifest, steps, verify
from gptjax.sharding import make_mesh, replicated


def tree(value=0.0):
    """Parameters whose exact bits matter."""
    return {"layers": {"w": jnp.arange(64.0).reshape(8, 8) / 3 + value}, "scale": jnp.float32(0.1) + value}


def state(step):
    return {"step": jnp.int32(step), "mean": {"w": jnp.full((8, 8), step, jnp.bfloat16)}}


def both(step, value=None):
    return {"params": tree(step if value is None else value), "training": state(step)}


def abstract(like, sharding=None):
    sharding = sharding or replicated(make_mesh(8))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)


@pytest.fixture
def writer(tmp_path):
    """Keeps the two newest; closed at the end."""
    found = CheckpointWriter(tmp_path, keep=2)
    yield found
    found.close()


def save(writer, *numbers, best=None, **notes):
    for step in numbers:
        writer.save(step, both(step), notes, best)
    writer.wait()


def files(run, step):
    folder = run / "checkpoints" / str(step)
    return [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


HEARD = []  # an audit hook cannot be taken away again
LISTENERS = [HEARD.append]


def hear(event, arguments):
    if event == "gptjax.save":
        for listener in LISTENERS:
            listener(arguments)


sys.addaudithook(hear)


@contextlib.contextmanager
def at(stage, act):
    """Acts when a save reaches a stage."""
    LISTENERS.append(listener := lambda arguments: act() if arguments[0] == stage else None)
    try:
        yield
    finally:
        LISTENERS.remove(listener)


def test_what_is_restored_is_what_was_saved(writer, tmp_path):
    """Both trees, every bit and dtype, and the notes; another step holds others."""
    save(writer, 3, 4, rows=96)
    for step in (3, 4):
        for name, wanted in (("params", tree(step)), ("training", state(step))):
            found = restore(tmp_path, step, name, abstract(wanted))
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
            assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, wanted)
    assert (manifest(tmp_path, 3)["step"], manifest(tmp_path, 3)["rows"]) == (3, 96)


def test_arrays_in_pieces_are_saved_within_the_mesh_of_a_run(writer, tmp_path):
    """Of zeros and small too: Orbax keeps those in a table, compressed, and their files are fewer bytes than they."""
    mesh = make_mesh(2, 2, 2)
    pieces = jax.NamedSharding(mesh, jax.P("data", "tensor"))
    wanted = {"params": {f"w{number}": jax.device_put(jnp.zeros((16, 32)), pieces) for number in range(99)}}
    with jax.set_mesh(mesh):
        writer.save(3, wanted, {})
        writer.wait()
    assert steps(tmp_path) == [3]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 99 * 16 * 32 * 4


def test_a_save_holds_what_was_there_when_it_was_called(tmp_path):
    """Arrays that later steps overwrite in place (donation) while they are being written come back as they were."""
    writer = CheckpointWriter(tmp_path, keep=9)
    add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    params = {"w": jnp.arange(2_000_000.0)}
    for step in (1, 2, 3):
        writer.save(step, {"params": params}, {})
        for _ in range(3):
            params = add(params)
    writer.close()
    for step in (1, 2, 3):
        found = restore(tmp_path, step, "params", abstract({"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32)}))
        np.testing.assert_array_equal(found["w"], np.arange(2_000_000.0) + 3 * (step - 1))


def test_on_the_cpu_a_save_writes_from_memory_of_its_own(writer):
    """So that no step waits for it; the same memory again at the next save, whose values it then holds."""

    def places(trees):
        return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trees)]

    trees = [{"params": {"w": jnp.full(100_000, value)}} for value in (1.0, 2.0)]
    first, second = (places(writer._copied(given)) for given in trees)
    assert first == second
    assert set(first).isdisjoint(places(trees))
    np.testing.assert_array_equal(writer._copies["params"]["w"], 2.0)


@pytest.mark.fault(13)
def test_a_step_can_be_restored_on_another_mesh(writer, tmp_path):
    """Saved split over eight devices, restored split 2 x 2 x 2 and whole on one."""
    rows, grid = (jax.NamedSharding(make_mesh(*shape), jax.P("data", "tensor")) for shape in ((8, 1, 1), (2, 2, 2)))
    value = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    writer.save(1, {"params": {"w": jax.device_put(value, rows)}}, {})
    writer.save(2, {"params": {"w": jax.device_put(value, rows)}}, {})  # through the copy of the first
    writer.wait()
    for sharding in (grid, replicated(make_mesh(devices=jax.devices()[:1]))):
        for step in (1, 2):
            found = restore(tmp_path, step, "params", abstract({"w": value}, sharding))["w"]
            assert found.sharding == sharding
            np.testing.assert_array_equal(found, value)


@pytest.mark.fault(11)
@pytest.mark.parametrize("placed", [True, False], ids=["with sharding", "without"])
def test_a_tree_of_another_model_is_refused(writer, tmp_path, placed):
    """Another shape, a leaf too many, a leaf too few and an absent tree are errors of one line."""
    save(writer, 1)
    whole = replicated(make_mesh(8)) if placed else None
    leaf, wider, scale = (jax.ShapeDtypeStruct(shape, jnp.float32, sharding=whole) for shape in ((8, 8), (8, 9), ()))
    restore(tmp_path, 1, "params", {"layers": {"w": leaf}, "scale": scale})
    for other, said in (
        ({"layers": {"w": wider}, "scale": scale}, r"params/layers/w is \(8, 8\) in the checkpoint, \(8, 9\) in this"),
        ({"layers": {"w": leaf}}, r"params/scale is \(\) in the checkpoint, absent in this model"),
        ({"layers": {"w": leaf}, "scale": scale, "b": leaf}, r"params/b is absent in the checkpoint, \(8, 8\) in this"),
    ):
        with pytest.raises(ValueError, match=f"^step 1: {said}[^\n]*$"):
            restore(tmp_path, 1, "params", other)
    with pytest.raises(ValueError, match=r"^step 1: has no ema$"):
        restore(tmp_path, 1, "ema", {"w": leaf})


@pytest.mark.fault(32)
def test_numbers_that_are_none_are_refused(tmp_path):
    """NaN and infinity, with leaf and count; the largest number is one."""
    params = {"a": jnp.full(3, jnp.finfo(jnp.bfloat16).max, jnp.bfloat16), "b": [jnp.arange(4), jnp.ones((2, 2))]}
    refuse_nonfinite(7, "params", params)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        params["b"][1] = jnp.array([[1, bad], [bad, 1]])
        with pytest.raises(ValueError, match=r"^step 7: params/b/1 has 2 values that are NaN or infinite"):
            refuse_nonfinite(7, "params", params)


@pytest.mark.fault(1)
def test_a_step_appears_whole_or_not_at_all(writer, tmp_path):
    """At each stage of a save, in order: before the commit there is no such step, after it the step verifies."""
    save(writer, 1, 2)
    HEARD.clear()
    seen = {}
    order = ("begin", "write", "written", "manifest", "committed", "clean", "end")
    with contextlib.ExitStack() as stages:
        for stage in order:
            stages.enter_context(at(stage, lambda s=stage: seen.update({s: (steps(tmp_path), names(tmp_path))})))
        save(writer, 3)
    assert [(stage, 1 if stage == "clean" else 3) for stage in order] == HEARD
    for stage in order[:4]:
        assert seen[stage][0] == [1, 2]
        assert "3" not in seen[stage][1]
    assert [seen[stage][0] for stage in order[4:]] == [[1, 2, 3], [1, 2, 3], [2, 3]]
    assert seen["end"][1] == names(tmp_path) == ["2", "3"]
    verify(tmp_path, 3)
    assert writer.seconds > 0


@pytest.mark.fault(1, 2)
def test_what_was_left_unfinished_is_cleared_and_told(writer, tmp_path):
    """Saves that a kill cut short, and steps half deleted. Folders of others stay, a step without manifest too."""
    save(writer, 1, 2)
    (tmp_path / "checkpoints/2" / MANIFEST).unlink()
    rubbish = ["3.deleted-ab", "3.orbax-checkpoint-tmp-9", "4.unfinished-ab", "4.unfinished-ab.orbax-checkpoint-tmp"]
    for name in [*rubbish, "notes", "5.damaged"]:
        (tmp_path / "checkpoints" / name / "params").mkdir(parents=True)
    (tmp_path / "checkpoints/6.unfinished-file").touch()
    assert steps(tmp_path) == [1]
    again = CheckpointWriter(tmp_path, keep=2)
    again.close()
    assert again.cleared == tuple(rubbish)
    assert names(tmp_path) == ["1", "2", "5.damaged", "6.unfinished-file", "notes"]
    assert writer.cleared == ()


@pytest.mark.fault(17)
def test_the_newest_and_the_best_are_kept(writer, tmp_path):
    """Of four saves two stay, in order of number and not of name, and are whole; a best one stays beside them."""
    save(writer, 8, 9, 10, 11)
    assert names(tmp_path) == ["10", "11"]
    save(writer, 12, 13, 14, best=11)
    assert names(tmp_path) == ["11", "13", "14"]
    for step in (11, 13, 14):
        verify(tmp_path, step)
    assert manifest(tmp_path, 14)["best"] == 11
    save(writer, 15, best=15)
    assert names(tmp_path) == ["14", "15"]


def test_deletions_that_were_cut_short_are_made_up_for(writer, tmp_path):
    """A run that is killed between a commit and the clean-up after it may have no save left that would do it."""

    def die():
        raise InterruptedError("killed")

    with at("clean", die), pytest.raises(InterruptedError):
        save(writer, 1, 2, 3, 4, best=1)
    assert steps(tmp_path) == [1, 2, 3, 4]
    again = CheckpointWriter(tmp_path, keep=2)
    again.continued(4)
    again.close()
    assert names(tmp_path) == ["1", "3", "4"]


def test_a_run_resumed_from_an_earlier_step_keeps_what_it_writes(writer, tmp_path):
    """With 10 and 11 left and 9 resumed, step 9 is not deleted as the oldest; step 10 is written anew, the old kept."""
    save(writer, 10, 11)
    save(writer, 9)
    assert 9 in steps(tmp_path)
    writer.save(10, both(10, value=7.0), {})
    writer.wait()
    verify(tmp_path, 10)
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, 10, "params", abstract(tree())), tree(7.0))
    assert "10.damaged" in names(tmp_path)


@pytest.mark.fault(17)
def test_keeping_none_is_refused(tmp_path):
    """Zero would mean all or nothing, depending on who reads it."""
    with pytest.raises(ValueError, match="keep=0"):
        CheckpointWriter(tmp_path, keep=0)


@pytest.mark.fault(7)
def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    """A file in its place; one that may not be written, or a disk mounted read-only, here as /proc."""
    (tmp_path / "checkpoints").touch()
    for run in (tmp_path, tmp_path / "checkpoints" / "run"):
        with pytest.raises(OSError, match="checkpoints"):
            CheckpointWriter(run, keep=1)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "checkpoints").symlink_to("/proc")
    with pytest.raises(OSError, match=r"checkpoints/0\.unfinished"):
        CheckpointWriter(tmp_path / "linked", keep=1)


@pytest.mark.fault(9)
def test_an_owner_who_was_replaced_cannot_commit(tmp_path):
    """The step is not made, those before it are whole, and nothing of the save is left."""
    lost = False

    @contextlib.contextmanager
    def held():
        if lost:
            raise RuntimeError("another job took the run over")
        yield

    writer = CheckpointWriter(tmp_path, keep=2, commit=held)
    save(writer, 1)
    assert writer.failure() is None
    lost = True
    writer.save(2, both(2), {})
    assert ended(writer, "another job")
    assert names(tmp_path) == ["1"]
    verify(tmp_path, 1)
    with pytest.raises(RuntimeError, match="another job"):
        writer.close()


def ended(writer, said):
    """Whether the save under way fails, as its writer tells, with these words."""
    writer._under_way.exception()  # waits, and leaves it to be told
    return said in str(writer.failure())


@pytest.mark.fault(6)
def test_a_failed_save_is_told_once_and_the_next_one_works(writer, tmp_path):
    """While step 2 is being written and hashed there is none; then it is told, raised once, and saving goes on."""
    save(writer, 1)
    goes_on = threading.Event()

    def fail():
        goes_on.wait(60)
        raise OSError("no space left on device")

    with at("written", fail):
        writer.save(2, both(2), {})
        assert writer.failure() is None
        goes_on.set()
        assert ended(writer, "no space left")
    with pytest.raises(OSError, match="no space left"):
        writer.save(3, both(3), {})
    assert writer.failure() is None
    assert names(tmp_path) == ["1"]
    save(writer, 3)
    assert steps(tmp_path) == [1, 3]


@pytest.mark.fault(6)
def test_a_save_that_has_no_room_is_refused_before_it_begins(writer, tmp_path, monkeypatch):
    """With both sizes; one that has room is made."""
    free = sum(leaf.nbytes for leaf in jax.tree.leaves(both(1)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    save(writer, 1)
    free -= 1
    with pytest.raises(OSError, match="step 2 needs 0 MB, the disk has 0 MB left"):
        save(writer, 2)
    assert names(tmp_path) == ["1"]


def run_processes(program, *arguments):
    """Runs a program in one process for each list of arguments; all must end well."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for words in arguments
    ]  # fmt: skip
    try:
        for process in running:
            said, _ = process.communicate(timeout=100)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()


@pytest.fixture
def small_disk(tmp_path):
    """Eight megabytes. Skips where a test may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.fault(6)
def test_a_disk_that_fills_up_costs_only_the_save_it_stops(small_disk):
    """An error that says so, none of its files left, older steps whole; with room again, saving goes on.

    In a process of its own, because Orbax's threads complain for a while about what they could not finish.
    """
    program = """if True:
        import errno, pathlib, sys
        import jax, numpy as np
        from gptjax.runs.checkpoint import CheckpointWriter, restore
        from gptjax.runs.manifest import steps, verify

        run = pathlib.Path(sys.argv[1])
        ballast = run / "ballast"
        fills = False

        def hear(event, arguments):
            if fills and event == "gptjax.save" and arguments[0] == "begin":
                ballast.write_bytes(bytes(4_000_000))

        sys.addaudithook(hear)
        params = {f"w{number}": jax.random.normal(jax.random.key(number), (700, 128)) for number in range(7)}  # 2.5 MB
        writer = CheckpointWriter(run, keep=9)
        writer._check_room = lambda step, trees: None  # as if the disk filled up just after
        writer.save(1, {"params": params}, {})
        writer.wait()
        fills = True
        for step in (2, 3):
            writer.save(step, {"params": params}, {})
            error = writer._under_way.exception()
            assert writer.failure() is error
            assert isinstance(error, OSError) and error.errno == errno.ENOSPC, error
            assert [path.name for path in (run / "checkpoints").iterdir()] == ["1"]
            try:
                writer.wait()
            except OSError:
                continue
            raise AssertionError("not raised")
        verify(run, 1)
        fills = False
        ballast.unlink()
        writer.save(4, {"params": params}, {})
        writer.close()
        assert steps(run) == [1, 4]
        for step in (1, 4):
            verify(run, step)
            jax.tree.map(np.testing.assert_array_equal, restore(run, step, "params", params), params)
    """
    run_processes(program, [small_disk])


@pytest.mark.parametrize("name", ["plain", "exp[1]\\"])
def test_two_processes_save_one_step(tmp_path, name):
    """Each its part of the arrays and its share of the hashes; the first commits, and both know whether it could."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = tmp_path / name
    program = """if True:
        import contextlib, pathlib, sys
        import jax, numpy as np
        run, port, process = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
        from gptjax.runs.checkpoint import CheckpointWriter, restore
        from gptjax.runs.manifest import steps, verify
        from gptjax.sharding import make_mesh

        lost = False

        @contextlib.contextmanager
        def held():
            if lost:
                raise RuntimeError("another job")
            yield

        rows = jax.NamedSharding(make_mesh(4), jax.P("data"))
        value = np.arange(32.0, dtype=np.float32).reshape(8, 4)
        array = jax.make_array_from_callback(value.shape, rows, lambda index: value[index])
        writer = CheckpointWriter(run, keep=1, commit=held)
        for step in (1, 2):
            writer.save(step, {"params": {"w": array}}, {})
            writer.wait()
            verify(run, step)
            assert steps(run) == [step]
        lost = True
        writer.save(3, {"params": {"w": array}}, {})
        try:
            writer.close()
        except (RuntimeError, OSError) as error:
            assert "another job" in str(error) if process == 0 else "step 3 was not saved" in str(error)
        assert steps(run) == [2]
        found = restore(run, 2, "params", {"w": jax.ShapeDtypeStruct((8, 4), np.float32, sharding=rows)})["w"]
        for shard in found.addressable_shards:
            np.testing.assert_array_equal(shard.data, value[shard.index])
    """
    run_processes(program, (run, port, 0), (run, port, 1))
    assert names(run) == ["2"]
    listed = manifest(run, 2)["files"]
    assert any("ocdbt.process_1" in name for name in listed)
    assert set(listed) == {str(path.relative_to(run / "checkpoints/2")) for path in files(run, 2)}
    found = restore(run, 2, "params", abstract({"w": np.zeros((8, 4), np.float32)}))
    np.testing.assert_array_equal(found["w"], np.arange(32.0).reshape(8, 4))


@pytest.mark.parametrize("name", ["exp[1]", "a[!b]*?", "back\\slash", "\\", "[x]\\[y]"])
def test_a_folder_may_be_called_like_a_pattern(tmp_path, name):
    """Orbax globs the path it is given, and TensorStore takes a backslash for a slash: what is there is whole."""
    run = tmp_path / name
    writer = CheckpointWriter(run, keep=2)
    save(writer, 1, 2)
    writer.close()
    verify(run, 2)
    jax.tree.map(np.testing.assert_array_equal, restore(run, 2, "params", abstract(tree())), tree(2))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    moved = run.rename(tmp_path / "moved")
    jax.tree.map(np.testing.assert_array_equal, restore(moved, 2, "params", abstract(tree())), tree(2))


def test_what_cannot_be_restored_is_no_step(writer, tmp_path):
    """Between writing and hashing, a table or data of a tree goes, or becomes that of other arrays or other values."""
    save(writer, 1)
    other = CheckpointWriter(tmp_path, keep=2)
    other.save(2, {"params": {"w": jnp.zeros((99, 9))}}, {})
    other.close()
    folders = [tmp_path / "checkpoints" / number / "params" for number in ("1", "2")]
    for spoil, said in (
        (lambda params: (params / "manifest.ocdbt").unlink(), r"params/manifest\.ocdbt is missing"),
        (lambda params: (params / "_METADATA").unlink(), r"params/_METADATA is missing"),
        (lambda params: [shutil.rmtree(data) for data in params.rglob("d")], "params cannot be read"),
        (lambda params: (shutil.rmtree(params), shutil.copytree(folders[0], params)), "params/scale was read .* other"),
        (lambda params: (shutil.rmtree(params), shutil.copytree(folders[1], params)), "params has the arrays .*99"),
    ):
        with at("written", lambda spoil=spoil: spoil(next(tmp_path.glob("checkpoints/3.*/params")))):
            writer.save(3, both(3), {})
            with pytest.raises(OSError, match=f"step 3 was not saved: {said}"):
                writer.wait()
        assert names(tmp_path) == ["1", "2"]
    save(writer, 3)
    assert names(tmp_path) == ["2", "3"]


def test_data_that_is_not_all_there_is_no_step(tmp_path):
    """The file of a large array goes, whose description and whose neighbour are there."""
    writer = CheckpointWriter(tmp_path, keep=2)
    trees = {"params": {"large": jnp.ones((300, 300)), "small": jnp.ones((30, 30))}}
    with at(
        "written", lambda: max(tmp_path.glob("checkpoints/1.*/**/d/*"), key=lambda file: file.stat().st_size).unlink()
    ):
        writer.save(1, trees, {})
        with pytest.raises(OSError, match=r"step 1 was not saved: params has .* bytes of files for 363600 bytes"):
            writer.wait()
    writer.save(2, trees, {})
    writer.close()
    assert names(tmp_path) == ["2"]
