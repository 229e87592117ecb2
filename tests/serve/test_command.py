"""`pivot-jax serve` as a process: what it prints, its end at signals, and what it says before it starts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.serve.conftest import data_url, turn
from tests.tiny import commands


def started(folder, *options, **environment):
    """The process and its address, when it answers."""
    argv = [sys.executable, "-m", "pivot_jax.cli", "serve", "--workdir", str(folder / "run"), "--port", "0", *options]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    line = process.stdout.readline()
    found = re.fullmatch(r"(\S+) at (http://127\.0\.0\.1:\d+/v1) \(stop with Ctrl-C\)\n", line)
    assert found, line + process.stderr.read()
    return process, found[1], found[2]


def post(url, body, token=""):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_answers_until_a_signal(folder, number, code):
    """The second time with a name, and a token from the environment."""
    named = number == signal.SIGTERM
    more = ("--model-name", "mine") if named else ()
    process, name, url = started(folder, *more, **({"PIVOT_SERVE_TOKEN": "secret"} if named else {}))
    try:
        assert name == ("mine" if named else "run")
        body = {"model": name, "messages": turn(data_url(folder / "0.png")), "max_tokens": 4, "temperature": 0}
        if named:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                post(f"{url}/chat/completions", body)
        reply = post(f"{url}/chat/completions", body, "secret" if named else "")
        assert reply["usage"]["completion_tokens"] == 4
        process.send_signal(number)
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_a_port_in_use_is_one_line_before_the_weights_are_read(folder, capsys, monkeypatch):
    monkeypatch.setattr("pivot_jax.serve.model.open_served", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert commands.run("serve", "--workdir", folder / "run", "--port", port) == 1
    error = capsys.readouterr().err
    assert error == (
        f"pivot-jax serve: --host 127.0.0.1 --port {port}: Address already in use; choose another port (0: any free "
        "one) or host\n"
    )
    assert commands.run("serve", "--workdir", folder / "run", "--host", "no.such.host.invalid", "--port", "0") == 1
    assert "--host no.such.host.invalid --port 0: " in capsys.readouterr().err


def test_without_fastapi_it_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert commands.run("serve", "--workdir", folder / "run", "--port", "0") == 1
    assert capsys.readouterr().err == "pivot-jax serve: serving needs fastapi; pip install 'pivot-jax[serve]'\n"


def test_other_machines_without_a_token_are_a_warning(caplog):
    from pivot_jax.serve.server import Settings, listen

    listen(Settings(host="0.0.0.0", port=0, token="x")).close()
    assert not caplog.records
    listen(Settings(host="0.0.0.0", port=0)).close()
    assert "anybody who reaches 0.0.0.0 can use this server" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--weights hf:x --workdir y", "not allowed with argument"),
        ("", "one of the arguments --workdir --weights is required"),
        ("--workdir x --port 70000", "'70000' is not a whole number between 0 and 65535 (a port)"),
        ("--workdir x --slots 0", "'0' is not a whole number of at least 1"),
        ("--weights hf:x --step 3", "--step is of --workdir; write run:DIR@3"),
    ],
)
def test_wrong_usage(options, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        commands.run("serve", *options.split())
    assert stopped.value.code == 2 and says in capsys.readouterr().err
