"""`gptjax serve` refuses in one line, before JAX is imported, what it can refuse so early."""

import contextlib
import re
import socket
import subprocess
import sys

import pytest

from gptjax.cli import parse
from gptjax.command.serve_verb import Serve, bound, is_loopback, read_keys

KEY = "a-key-of-24-characters.."


def program(*words, first=""):
    """`gptjax serve WORDS`, where JAX cannot be imported."""
    code = f"import sys; sys.modules['jax'] = None; {first} sys.argv = ['gptjax', 'serve', *sys.argv[1:]]; "
    code += "from gptjax.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def one_line(done):
    assert done.returncode == 2, done
    [line] = done.stderr.splitlines()
    return line


def test_a_missing_package_is_said_with_what_to_install():
    said = one_line(program("nowhere", first="sys.modules['uvicorn'] = None;"))
    assert 'pip install "gptjax[serve]"' in said
    assert "uvicorn" in said


def test_a_port_in_use_is_one_line_before_the_model_is_looked_for():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1: Address already in use; choose another" in one_line(
            program("nowhere", "--port", port)
        )


def test_every_step_that_is_loaded_has_the_adapter_and_the_weights_that_were_asked_for(monkeypatch):
    given = []
    monkeypatch.setattr("gptjax.load", lambda *words, **settings: given.append((words, settings)))
    Serve(directory="runs/a", follow=True, adapter="b", weights="ema").loaded(30, "float32")
    assert given == [(("runs/a", 30), {"weights": "ema", "dtype": "float32", "adapter": "b"})]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--port", "0"], "no such run"),
        (["nowhere", "--port", "70000"], "port=70000: must be from 0"),
        (["nowhere", "--slots", "0"], "slots=0: must be at least 1"),
        (["nowhere", "--queue", "0"], "queue=0: must be at least 1"),
        (["nowhere", "--context", "1"], "context=1: must be at least 2"),
        (["nowhere", "--drain", "-1"], "drain=-1.0: must be 0"),
        (["nowhere", "--follow", "--step", "5"], "use one of them"),
        (["a_models_folder", "--follow", "--port", "0"], "neither a run (no model.json)"),
        (["nowhere", "--host", "0.0.0.0"], "give keys with --api-key-file, or say --allow-anyone"),
        (["nowhere", "--host", "0.0.0.0", "--allow-anyone", "--port", "0"], "no such run"),
        (["nowhere", "--host", "no.such.host.invalid"], "is no address of this machine"),
        (["nowhere", "--api-key-file", "no.keys"], "no.keys: is missing"),
        (["nowhere", "--slot", "3"], "did you mean '--slots'"),
    ],
)
def test_a_mistake_is_refused_before_a_model_is_loaded(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_models_folder").mkdir()
    (tmp_path / "a_models_folder" / "config.json").write_text("{}")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")  # is not to be set by this
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(["serve", *words]).run()


def test_keys_are_the_lines_of_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{KEY}\n\n  {KEY}2  \n")
    assert read_keys(file) == (KEY, KEY + "2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# none\n\n", "holds no key"),
        (f"{KEY}\nshort-secret\n", "line 2: this key has 12 characters; at least 16"),
        ("schlüssel-schlüssel-1\n", "line 1: a key must be of printable ASCII"),
        ("two words of secret 1\n", "line 1: a key must be"),
    ],
)
def test_a_bad_key_is_named_by_its_line_and_never_shown(tmp_path, text, said):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match=f"keys: {said}") as caught:
        read_keys(tmp_path / "keys")
    assert "secret" not in str(caught.value)


def test_loopback_is_told_by_address_not_by_name():
    assert [host for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9") if not is_loopback(host)] == []
    assert [host for host in ("0.0.0.0", "::", "10.0.0.1") if is_loopback(host)] == []


def test_a_bound_port_is_not_open_yet():
    """A client is refused until the server listens; then it is let in."""
    with bound("127.0.0.1", 0) as sock:
        place = sock.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, timeout=5)
        sock.listen()
        with contextlib.closing(socket.create_connection(place, timeout=5)):
            pass


def test_the_default_is_for_this_machine_alone():
    assert is_loopback(Serve(directory="x").host)
