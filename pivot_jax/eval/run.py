"""Running one benchmark into a predictions file: the questions without an answer there are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions, shards
from pivot_jax.eval.answerer import Reply
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.toolkits import DEFAULT
from pivot_jax.eval.questions import Chosen, RunOptions, choose, gold_of, prompt_of
from pivot_jax.eval.score import Rules, Score, score_file
from pivot_jax.eval.scoring import parse
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.processes import Processes
from pivot_jax.progress import progress


class Answers(Protocol):
    """The methods of a model that a benchmark needs; ``Answerer`` has them."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def processes(self) -> Processes: ...

    def for_images(self, count: int) -> Answers: ...

    def for_sampling(self, temperature: float, top_p: float = ...) -> Answers: ...

    def answer(
        self,
        examples: Sequence[Example],
        max_new_tokens: int,
        done: Callable[[int], Any] = ...,
        stop: Sequence[str] = ...,
    ) -> list[Reply]: ...

    def choose(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], normalisation: str = ...
    ) -> list[int]: ...


def run_benchmark(
    name: str, path: str | Path, answerer: Answers, out: str | Path, options: RunOptions | None = None
) -> Path:
    """Asks the questions that ``out`` does not hold yet, and appends the answers as they come.

    Existing answers are used again if they were made under the same settings (the answerer's, the toolkit, and the
    number of new tokens); see :func:`predictions.resume`. For those without a ranking of their options, only the
    ranking is computed.

    Where the answerer's processes are several, all of them call this. They share the questions, and the first one alone
    reads and writes ``out``.

    Args:
      path: the benchmark's files.
      out: predictions file.

    Returns:
      ``out``. Of a shard: with the answers of all shards so far.

    Raises:
      UserError: unknown benchmark or toolkit, unreadable questions, a file of another evaluation, or a ranking of
        options over several processes.
    """
    options = options or RunOptions()
    return _run(choose(name, path, options), answerer, Path(out), options)


def evaluate(
    name: str,
    path: str | Path,
    answerer: Answers,
    out: str | Path,
    options: RunOptions | None = None,
    *,
    seed: int = 0,
) -> Score:
    """:func:`run_benchmark`, and the score of the questions that were chosen.

    A file with answers to more questions than ``options.limit`` keeps them; they are not scored.

    Args:
      seed: of the resampling.
    """
    options = options or RunOptions()
    asked = choose(name, path, options)
    file = _run(asked, answerer, Path(out), options)
    rules = Rules(options.toolkit, options.scorer, options.aggregate)
    return answerer.processes.from_first(lambda: score_file(file, name, rules, seed=seed, ids=set(asked.prompts)))


def _run(asked: Chosen, answerer: Answers, out: Path, options: RunOptions) -> Path:
    file, processes = shards.path_of(out, options.shard), answerer.processes
    answerer = answerer.for_images(asked.images)
    temperature = asked.variant.temperature if options.temperature is None else options.temperature
    if temperature is not None:
        answerer = answerer.for_sampling(temperature, asked.variant.top_p)
    if options.ranked and processes.several:
        raise UserError("ranked: a run of several processes ranks no options; use `pivot-jax eval --ranked` on it")
    settings = _settings(asked, answerer, options)
    form = suite.find(asked.name).option_form if options.ranked else ""
    answered = processes.from_first(lambda: _answered(file, asked, options, settings))
    pending = [one for one in asked.positions if one not in answered]
    unranked = [
        one
        for one, row in answered.items()
        if form and one in asked.positions and row.get("choices") and row.get("ranking") != options.ranked
    ]
    done = len(asked.positions) - len(pending) - len(unranked)
    common = {"benchmark": asked.name, "questions": asked.total, "model_id": options.model_id}
    common |= {"toolkit": options.toolkit, "data": asked.path}
    common |= {"control": options.control} if options.control else {}
    with progress(asked.name, len(asked.positions), done=done, show=options.show and is_first()) as advance:
        for part in _chunks(unranked, options.chunk):
            for one, best in zip(part, _rankings(form, answerer, asked.of(part), options.ranked), strict=True):
                answered[one] |= best
            predictions.write(file, answered.values())
            advance(len(part))
        for part in _chunks(pending, options.chunk * processes.count):
            own = processes.share(part)
            examples = asked.of(own)
            replies = answerer.answer(examples, settings["max_new_tokens"], advance, asked.variant.stop)
            rankings = _rankings(form, answerer, examples, options.ranked)
            rows = [
                _row(example, reply, common) | best | {"settings": settings}
                for example, reply, best in zip(examples, replies, rankings, strict=True)
            ]
            _append(file, rows, processes)
            advance(len(part) - len(own))
    if file != out:
        processes.from_first(lambda: shards.merge(out, options.shard[1], asked.prompts))
    return out


def _answered(file: Path, asked: Chosen, options: RunOptions, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of the file that can be used again, by question, with today's correct answers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = predictions.resume(file, asked.prompts, options.model_id, settings, asked.name)
    _correct(file, found, asked.golds)
    return found


def _append(file: Path, rows: list[dict[str, Any]], processes: Processes) -> None:
    """Appends the rows of all processes, in the order of the questions."""
    whole = [row for own in processes.gather(rows) for row in own]
    processes.from_first(lambda: predictions.append(file, whole))


def _correct(file: Path, answered: dict[str, dict[str, Any]], golds: Mapping[str, dict[str, Any]]) -> None:
    """Brings the rows' correct answers, categories and units up to date: their change is no reason to ask again."""
    stale = {
        one: golds[one]
        for one, row in answered.items()
        if one in golds and any(row.get(key) != value for key, value in golds[one].items())
    }
    if stale:
        for one, gold in stale.items():
            answered[one] |= gold
        predictions.write(file, answered.values())


def _settings(asked: Chosen, answerer: Answers, options: RunOptions) -> dict[str, Any]:
    """Everything that an answer depends on besides the model and the question."""
    found = {"max_new_tokens": options.max_new_tokens or asked.variant.max_new_tokens, **answerer.settings}
    wording = options.prompt or options.toolkit
    found |= {"toolkit": wording} if wording != DEFAULT else {}
    return found | ({"control": options.control} if options.control else {})


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _rankings(
    form: str, answerer: Answers, examples: Sequence[Example], normalisation: str
) -> Sequence[dict[str, str]]:
    """Field ``ranked`` of each example: its most likely option as a letter or a text.

    There is no such field where ``form`` is "", and for questions without options.
    """
    found: list[dict[str, str]] = [{} for _ in examples]
    having = [index for index, example in enumerate(examples) if form and example.extra.get("choices")]
    if not having:
        return found
    texts = [[str(choice) for choice in examples[index].extra["choices"]] for index in having]
    options = [list(parse.LETTERS[: len(choices)]) for choices in texts] if form == "letter" else texts
    best = answerer.choose([examples[index] for index in having], options, normalisation)
    for index, own, choice in zip(having, options, best, strict=True):
        found[index] = {"ranked": own[choice], "ranking": normalisation}
    return found


def _row(example: Example, reply: Reply, common: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a predictions file (see ``predictions``), without settings and ranking."""
    row = {"question_id": example.id, "prompt": prompt_of(example), "answer": reply.text, **gold_of(example)}
    return row | {"finished": reply.finished, **common}
