"""A language model that reads answers in which a scorer found nothing: only where one is named, never by default.

It is asked which option, or which short answer, the text gives, and not whether that is right; the scorer then judges
what it read. Replies are kept beside the predictions, so that a score can be made again without the judge.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.eval.scoring import scorers, table
from pivot_jax.eval.scoring.parse import LETTERS
from pivot_jax.progress import progress

NOTHING = "none"
TASK = (
    "Below are a question about an image and an answer that somebody gave. Say which {what} the answer gives. Do not "
    "say what is right. Reply with {form} and nothing else, or with '" + NOTHING + "' if the answer gives none."
)


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible endpoint.

    Attributes:
      url: up to and with ``/v1``.
      key_variable: environment variable with the key, if it needs one.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0

    def reply(self, prompt: str) -> str:
        """The model's reply to a prompt, greedily.

        Raises:
          UserError: no such endpoint, or one that does not answer in OpenAI's form.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            json.dumps(body | {"max_tokens": 32}).encode(),
            {"Content-Type": "application/json"} | self._authorisation(),
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return str(json.loads(response.read())["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace")
            raise UserError(
                f"judge {self.url}: status {error.code} ({said}); check --judge and --judge-model"
            ) from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"judge {self.url}: {type(error).__name__}: {error}; is the server up?") from None

    def _authorisation(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable, "")
        return {"Authorization": f"Bearer {key}"} if key else {}


def path_of(file: Path) -> Path:
    """Where the replies of a predictions file's judge are kept: ``NAME.judge.json``."""
    return file.with_suffix(".judge.json")


def read_unread(
    file: Path, rows: Sequence[dict[str, Any]], scorer: str, judge: Judge, *, show: bool = True
) -> list[dict[str, Any]]:
    """Rows in which answers that the scorer cannot read are replaced by what the judge read in them.

    Replaced rows keep the model's own text as ``unread_answer``.

    Raises:
      UserError: the judge does not reply; its replies so far are kept.
    """
    kept = _kept(file, judge)
    rule = table.find(scorer)
    unread = [row for row in rows if rule(str(row["answer"]), scorers.gold_of(row)).read == "" and row["answer"]]
    asked = [row for row in unread if _key(row) not in kept]
    try:
        with progress("judge", len(asked), show=show) as advance:
            for row in asked:
                kept[_key(row)] = judge.reply(prompt(row))
                advance(1)
    finally:
        record = {"url": judge.url, "model": judge.model, "replies": kept}
        files.write_text(path_of(file), json.dumps(record, indent=1))
    read = {_key(row): _meaning(kept[_key(row)]) for row in unread}
    return [
        row | {"answer": read[_key(row)], "unread_answer": row["answer"]} if read.get(_key(row)) else row
        for row in rows
    ]


def prompt(row: Mapping[str, Any]) -> str:
    """What the judge is asked about a row of a predictions file."""
    choices = list(row.get("choices") or ())
    what, form = ("option", "its letter") if choices else ("short answer", "that answer in one to five words")
    options = "".join(f"\n{LETTERS[index]}. {text}" for index, text in enumerate(choices))
    question = str(row.get("prompt", "")).replace("<image>", "").strip()
    listed = "" if not choices or options.strip() in question else f"\nOptions:{options}"
    return f"{TASK.format(what=what, form=form)}\n\nQuestion: {question}{listed}\n\nAnswer: {row['answer']}"


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([str(row["question_id"]), str(row["answer"])])


def _kept(file: Path, judge: Judge) -> dict[str, str]:
    """Replies of the same judge in earlier calls."""
    path = path_of(file)
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    same = (record.get("url"), record.get("model")) == (judge.url, judge.model)
    return dict(record["replies"]) if same else {}


def _meaning(reply: str) -> str:
    text = reply.strip()
    return "" if text.lower().strip(".'\"") == NOTHING else text
