"""gptjax.files.locks: one holder at a time, where the file system can; elsewhere that is told, and nobody fails."""

import errno
import fcntl

import pytest

from data import prepare
from gptjax.files.atomic_folder import appearing
from gptjax.files.locks import locked
from tests.data.test_prepare import some_documents, spec_of, write_jsonl
from train.supervision.lease import Lease

WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524)  # as Lustre, DVS and the kernel's NFS answer


@pytest.fixture
def answering(monkeypatch):
    """Makes every flock fail with a number."""

    def answer(number):
        def flock(file, operation):
            raise OSError(number, "as told")

        monkeypatch.setattr(fcntl, "flock", flock)

    return answer


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_held_by_one_and_free_afterwards(tmp_path, kind):
    path = tmp_path if kind == "folder" else tmp_path / "lock"
    with locked(path) as alone:
        assert alone
        assert path.is_dir() or not path.stat().st_mode & 0o111  # no program
        with pytest.raises(BlockingIOError, match=str(path)), locked(path, wait=False):
            pass
    with locked(path, wait=False) as alone:
        assert alone


def test_what_is_no_lack_of_locks_is_raised_with_the_path(tmp_path, answering):
    answering(errno.EIO)
    with pytest.raises(OSError, match=r"cannot be locked \(as told\): '.*/lock'"), locked(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("number", WITHOUT)
def test_preparation_ownership_and_export_do_without_locks(tmp_path, answering, number):
    """Of text, of a run, and of a folder that appears whole; what another may be at work in stays."""
    answering(number)
    with locked(tmp_path / "lock") as alone:
        assert not alone
    spec = spec_of(tmp_path, f"files:{write_jsonl(tmp_path / 'a.jsonl', some_documents(200))}")
    folder = prepare.prepare(spec)
    assert prepare.prepare(spec) == folder
    assert [path.name for path in (tmp_path / "prepared").iterdir() if ".partial" in path.name] == []
    owner = Lease(tmp_path / "run")
    owner.take(lambda said: None)
    with owner.held():
        pass
    owner.release()
    (other := tmp_path / ".model.unfinished-0123abcd").mkdir()
    with appearing(tmp_path / "model") as (_, appear):
        appear()
    assert (tmp_path / "model").is_dir()
    assert other.is_dir()


def test_two_preparations_without_locks_do_not_meet(tmp_path, answering, monkeypatch):
    """A second one, begun and ended in the middle of a first, leaves its files alone; both end with the same folder."""
    answering(errno.ENOLCK)
    spec = spec_of(tmp_path, f"files:{write_jsonl(tmp_path / 'a.jsonl', some_documents(200))}")
    folders, assemble = [], prepare.assemble

    def meanwhile(*arguments):
        monkeypatch.setattr(prepare, "assemble", assemble)
        folders.append(prepare.prepare(spec))
        return assemble(*arguments)

    monkeypatch.setattr(prepare, "assemble", meanwhile)
    folders.append(prepare.prepare(spec))
    assert folders[0] == folders[1]
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == [".lock", folders[0].name]
