"""A judge reads answers that the scorer cannot; it is asked once, and replies in OpenAI's form over HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.eval import judge
from pivot_jax.eval.judge import Judge
from pivot_jax.eval.run import run_benchmark
from pivot_jax.eval.score import score_file
from tests.tiny import scripted

TEXTS = {"1": "It is the first one.", "2": "B", "3": "Nobody knows", "4": "the second, clearly", "5": "", "6": "B"}
READS = {"first": "A", "second": " B\n", "Nobody": "None."}


@pytest.fixture
def server():
    """An endpoint that replies by a word in the prompt, and says what it was asked with."""
    asked: list[tuple[dict, dict]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((body, dict(self.headers)))
            text = body["messages"][0]["content"].rpartition("Answer: ")[2]
            reply = next((value for word, value in READS.items() if word in text), "")
            status = 200 if body["model"] == "reader" else 404
            self.send_response(status)
            self.end_headers()
            record = {"choices": [{"message": {"content": reply}}]} if status == 200 else {"error": "no such model"}
            self.wfile.write(json.dumps(record).encode())

        def log_message(self, *_):
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/v1", asked
    found.shutdown()


def test_only_what_cannot_be_read_is_judged(toy, tmp_path, server, monkeypatch, capsys):
    url, asked = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: TEXTS[e.id]), tmp_path / "p.jsonl")
    before = score_file(file)
    assert before.scores.tolist() == [0, 1, 0, 0, 0, 1] and before.judged == 0 and not asked
    found = score_file(file, judge=Judge(url, "reader"))
    assert found.scores.tolist() == [1, 1, 0, 1, 0, 1] and found.judged == pytest.approx(2 / 6)
    assert found.unread == pytest.approx(2 / 6)  # nobody knows, and the empty answer
    assert len(asked) == 3 and all(headers["Authorization"] == "Bearer secret" for _, headers in asked)
    content = asked[0][0]["messages"][0]["content"]
    assert "Question 0? Options:\nA. Open\nB. Closed" in content and content.count("A. Open") == 1
    assert score_file(file, judge=Judge(url, "reader")).value == found.value and len(asked) == 3  # kept
    command = ["score", "--predictions", str(file), "--judge", url, "--judge-model", "reader"]
    assert cli.main(command) == 0 and "read by the judge" in capsys.readouterr().out and len(asked) == 3
    assert "secret" not in judge.path_of(file).read_text()


def test_a_judge_that_does_not_reply(toy, tmp_path, server, capsys):
    url, _ = server
    file = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: TEXTS[e.id]), tmp_path / "p.jsonl")
    with pytest.raises(UserError, match="status 404 .*no such model.*check --judge and --judge-model"):
        score_file(file, judge=Judge(url, "other"))
    with pytest.raises(UserError, match=r"judge http://127.0.0.1:9/v1: URLError.*is the server up\?"):
        score_file(file, judge=Judge("http://127.0.0.1:9/v1", "reader"))
    assert cli.main(["score", "--predictions", str(file), "--judge", url]) == 1
    assert "--judge and --judge-model: name both" in capsys.readouterr().err
