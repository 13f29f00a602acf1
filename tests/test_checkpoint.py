"""gptjax.checkpoint: a step is usable once its manifest says so, and what comes back is what went in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import checkpoint
from gptjax.checkpoint import MANIFEST, CheckpointWriter, manifest, restore, steps, verify
from gptjax.sharding import make_mesh, replicated


def tree(value=0.0):
    """Parameters whose exact bits matter."""
    return {"layers": {"w": jnp.arange(64.0).reshape(8, 8) / 3 + value}, "scale": jnp.float32(0.1) + value}


def state(step):
    return {"step": jnp.int32(step), "mean": {"w": jnp.full((8, 8), step, jnp.bfloat16)}}


def abstract(like, sharding=None):
    sharding = sharding or replicated(make_mesh(8))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)


@pytest.fixture
def writer(tmp_path):
    """Keeps the two newest; closed at the end."""
    found = CheckpointWriter(tmp_path, keep=2)
    yield found
    found.close()


def save(writer, *numbers, **notes):
    for step in numbers:
        writer.save(step, tree(step), state(step), notes)
    writer.wait()


def files(run, step):
    return sorted(
        path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file() and path.name != MANIFEST
    )


def test_what_is_restored_is_what_was_saved(writer, tmp_path):
    """Both trees, every bit and dtype, and the notes; another step holds others."""
    save(writer, 3, 4, rows=96)
    for step in (3, 4):
        for name, wanted in (("params", tree(step)), ("training", state(step))):
            found = restore(tmp_path, step, name, abstract(wanted))
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
            assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, wanted)
    assert (manifest(tmp_path, 3)["step"], manifest(tmp_path, 3)["rows"]) == (3, 96)


def test_a_save_holds_what_was_there_when_it_was_called(writer, tmp_path):
    """Arrays that the next step overwrites in place (donation) while they are being written come back as they were."""
    params = {"w": jnp.arange(2_000_000.0)}
    writer.save(1, params, state(1), {})
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)(params)
    writer.wait()
    found = restore(tmp_path, 1, "params", abstract({"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32)}))
    np.testing.assert_array_equal(found["w"], np.arange(2_000_000.0))


def test_a_step_can_be_restored_on_another_mesh(writer, tmp_path):
    """Saved split over eight devices, restored split 2 x 2 x 2 and whole on one."""
    rows, grid = (jax.NamedSharding(make_mesh(*shape), jax.P("data", "tensor")) for shape in ((8, 1, 1), (2, 2, 2)))
    value = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    writer.save(1, {"w": jax.device_put(value, rows)}, state(1), {})
    writer.wait()
    for sharding in (grid, replicated(make_mesh(devices=jax.devices()[:1]))):
        found = restore(tmp_path, 1, "params", abstract({"w": value}, sharding))["w"]
        assert found.sharding == sharding
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("placed", [True, False], ids=["with sharding", "without"])
def test_a_tree_of_another_model_is_refused(writer, tmp_path, placed):
    """Another shape, a leaf too many and a leaf too few are errors."""
    save(writer, 1)
    whole = replicated(make_mesh(8)) if placed else None
    leaf = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=whole)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    restore(tmp_path, 1, "params", {"layers": {"w": leaf}, "scale": scale})
    wider = jax.ShapeDtypeStruct((8, 9), jnp.float32, sharding=whole)
    with pytest.raises(ValueError, match=r"params\['layers'\]\['w'\] has shape \(8, 8\), this model wants \(8, 9\)"):
        restore(tmp_path, 1, "params", {"layers": {"w": wider}, "scale": scale})
    for wrong in ({"layers": {"w": leaf}}, {"layers": {"w": leaf}, "scale": scale, "b": leaf}):
        with pytest.raises(ValueError, match="structure"):
            restore(tmp_path, 1, "params", wrong)


def test_a_step_without_a_manifest_does_not_count_and_is_cleared(writer, tmp_path):
    """It is not among the steps, the next start removes it and what orbax left half written; files of others stay."""
    save(writer, 1, 2)
    (tmp_path / "checkpoints/2" / MANIFEST).unlink()
    (tmp_path / "checkpoints/3.orbax-checkpoint-tmp-9").mkdir()
    (tmp_path / "checkpoints/notes").mkdir()
    (tmp_path / "checkpoints/.DS_Store").touch()
    assert steps(tmp_path) == [1]
    CheckpointWriter(tmp_path, keep=2).close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [".DS_Store", "1", "notes"]


def test_the_newest_are_kept(writer, tmp_path):
    """Of four saves two stay, in order of number and not of name, and are whole."""
    save(writer, 8, 9, 10, 11)
    assert steps(tmp_path) == [10, 11]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "11"]
    for step in (10, 11):
        verify(tmp_path, step)


def test_a_run_resumed_from_an_earlier_step_keeps_what_it_writes(writer, tmp_path):
    """With 10 and 11 damaged and 9 resumed, step 9 is not deleted as the oldest, and step 10 is written anew."""
    save(writer, 10, 11)
    save(writer, 9)
    assert 9 in steps(tmp_path)
    writer.save(10, tree(7.0), state(10), {})
    writer.wait()
    verify(tmp_path, 10)
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, 10, "params", abstract(tree())), tree(7.0))


def test_keeping_none_is_refused(tmp_path):
    """Zero would mean all or nothing, depending on who reads it."""
    with pytest.raises(ValueError, match="keep=0"):
        CheckpointWriter(tmp_path, keep=0)


def test_one_flipped_byte_is_found_and_its_file_named(writer, tmp_path):
    """In every file of a step; unharmed, the step verifies."""
    save(writer, 1)
    verify(tmp_path, 1)
    for path in files(tmp_path, 1):
        content = path.read_bytes()
        if content:
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
            with pytest.raises(ValueError, match=r"resume from another step") as error:
                verify(tmp_path, 1)
            assert str(path) in str(error.value)
            path.write_bytes(content)
    verify(tmp_path, 1)


def test_a_missing_file_and_a_damaged_manifest_are_named(writer, tmp_path):
    """Each with its path."""
    save(writer, 1)
    files(tmp_path, 1)[-1].unlink()
    with pytest.raises(ValueError, match="is missing"):
        verify(tmp_path, 1)
    (tmp_path / "checkpoints/1" / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"1/manifest\.json is damaged"):
        verify(tmp_path, 1)


def test_a_failed_save_is_raised_at_the_next_call_and_leaves_no_usable_step(writer, tmp_path, monkeypatch):
    """A full disk while step 2 is written: the call for step 3 raises, 1 stays the newest, and saving goes on."""
    save(writer, 1)

    def full(path):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "_describe", full)
        writer.save(2, tree(), state(2), {})
        with pytest.raises(OSError, match="no space left"):
            writer.save(3, tree(), state(3), {})
    assert steps(tmp_path) == [1]
    save(writer, 3)
    assert steps(tmp_path) == [1, 3]
