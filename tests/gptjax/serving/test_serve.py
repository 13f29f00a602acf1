"""The whole program: `gptjax serve` in a process of its own, answered, stopped gently, stopped at once."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny_run import random_model, write_run

LONG = {"model": "tiny", "prompt": "the quick secret", "max_tokens": 1500, "temperature": 0, "stream": True}
SECONDS = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", random_model(T=2048))


@contextlib.contextmanager
def serving(run, *words):
    """(process, port) of a server that is ready."""
    command = [sys.executable, "-m", "gptjax.cli", "serve", str(run), "--port", "0", "--slots", "2", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+): .*ready: tiny, \w+, 2 slots, \d+ programs", line)
            assert found, line + process.stdout.read()
            yield process, int(found[1])
        finally:
            process.kill()


def asked(port, path, fields=None):
    """A connection, and the answer that has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    body, headers = (None, {}) if fields is None else (json.dumps(fields), {"content-type": "application/json"})
    connection.request("GET" if fields is None else "POST", path, body, headers)
    return connection, connection.getresponse()


def status(port, path, fields=None):
    connection, answer = asked(port, path, fields)
    with contextlib.closing(connection):
        answer.read()
        return answer.status


def test_sigterm_finishes_what_is_under_way_takes_nothing_new_and_exits_with_0(run):
    """Meanwhile /readyz says that it is ending; nothing of a prompt is printed."""
    with serving(run) as (process, port):
        assert status(port, "/readyz") == 200
        assert status(port, "/") == 200
        connection, stream = asked(port, "/v1/completions", LONG)
        stream.readline()
        process.send_signal(signal.SIGTERM)
        seen = []
        while not seen or seen[-1] == 200:
            seen.append(status(port, "/readyz"))
        assert seen[-1] == 503
        assert status(port, "/v1/completions", LONG | {"stream": False}) == 503
        events = stream.read().decode().split("\n\n")
        connection.close()
        assert events[-2] == "data: [DONE]"
        assert not any('"error"' in event for event in events)
        assert process.wait(SECONDS) == 0
        printed = process.stdout.read()
        assert "SIGTERM: answers under way are finished, within 30 s" in printed
        assert "secret" not in printed
        assert "Traceback" not in printed


def test_a_second_signal_ends_it_at_once(run):
    with serving(run) as (process, port):
        connection, stream = asked(port, "/v1/completions", LONG)
        stream.readline()
        process.send_signal(signal.SIGTERM)
        while status(port, "/readyz") == 200:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
        connection.close()


def test_texts_that_do_not_end_in_time_end_with_an_error(run):
    with serving(run, "--drain", "0") as (process, port):
        connection, stream = asked(port, "/v1/completions", LONG)
        stream.readline()
        process.send_signal(signal.SIGINT)
        events = stream.read().decode().split("\n\n")
        connection.close()
        assert json.loads(events[-2].removeprefix("data: "))["error"]["message"] == "the server is shutting down"
        assert process.wait(SECONDS) == 0
        assert "1 answers were cut" in process.stdout.read()
