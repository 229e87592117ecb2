"""Running benchmarks into predictions files, going on after a kill, and scoring them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions, questions
from pivot_jax.eval import run as benchmarks
from pivot_jax.eval.answerer import Answerer, Reply
from pivot_jax.eval.run import Benchmark


class Scripted:
    """Answers by a function of the example, and remembers what it was asked."""

    def __init__(self, reply, option=0, fail_after=None, **settings):
        self.reply, self.option, self.fail_after, self.asked = reply, option, fail_after, []
        self.settings, self.ranked = settings, []

    def answer(self, examples, max_new_tokens, done=lambda count: None):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += [example.id for example in examples]
        done(len(examples))
        return [Reply(self.reply(example), finished=True) for example in examples]

    def choose(self, examples, options, normalisation="mean"):
        self.ranked += [example.id for example in examples]
        return [self.option] * len(examples)


def pairs(count=6):
    choices = ("Open", "Closed")
    return [
        Example(
            str(i + 1),
            (Message("user", f"<image>\nQuestion {i}?"),),
            ("none.png",),
            extra={"answer": "AB"[i % 2], "choices": choices, "unit": i // 2},
        )
        for i in range(count)
    ]


@pytest.fixture
def toy(monkeypatch):
    benchmark = benchmarks.BENCHMARKS["mmvp"]
    fields = {**vars(benchmark), "read": lambda path: pairs()}
    monkeypatch.setitem(benchmarks.BENCHMARKS, "mmvp", Benchmark(**fields))


def test_pair_accuracy_and_its_units(toy, tmp_path):
    right = {"1": "A", "2": "(B)", "3": "A", "4": "A. Open", "5": "", "6": "closed"}
    found = benchmarks.evaluate("mmvp", ".", Scripted(lambda e: right[e.id]), tmp_path / "p.jsonl", show=False)
    assert found.metric == "pair_accuracy" and found.value.value == pytest.approx(1 / 3) and found.value.n == 3
    assert found.also["question_accuracy"].value == pytest.approx(4 / 6)
    assert found.compliance == pytest.approx(3 / 6)  # "A. Open", "" and "closed" are not bare letters
    assert found.per_unit().tolist() == [1.0, 0.0, 0.0]
    assert found.scores.tolist() == [1, 1, 1, 0, 0, 1] and found.ids == tuple("123456")


def test_a_killed_run_goes_on_and_keeps_its_answers(toy, tmp_path):
    file = tmp_path / "deep" / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        benchmarks.run_benchmark("mmvp", ".", Scripted(lambda e: "A", fail_after=4), file, chunk=2, show=False)
    assert len(predictions.read(file)) == 4
    with file.open("a") as out:
        out.write('{"question_id": "5", "answ')  # the kill hit a write
    again = Scripted(lambda e: "B")
    benchmarks.run_benchmark("mmvp", ".", again, file, chunk=2, show=False)
    assert again.asked == ["5", "6"]
    rows = predictions.read(file)
    assert [row["answer"] for row in rows] == ["A"] * 4 + ["B"] * 2
    third = Scripted(lambda e: "C")
    benchmarks.run_benchmark("mmvp", ".", third, file, show=False)
    assert third.asked == []


def test_answers_of_another_evaluation_are_refused(toy, tmp_path):
    file = tmp_path / "p.jsonl"
    benchmarks.run_benchmark("mmvp", ".", Scripted(lambda e: "A"), file, model_id="sft", limit=2, show=False)
    with pytest.raises(UserError, match="answers of model 'sft', not 'dpo'"):
        benchmarks.run_benchmark("mmvp", ".", Scripted(lambda e: "A"), file, model_id="dpo", show=False)
    rows = predictions.read(file)
    rows[0]["prompt"] = "another"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="question '1' was asked with another prompt"):
        benchmarks.run_benchmark("mmvp", ".", Scripted(lambda e: "A"), file, model_id="sft", show=False)


def test_answers_under_other_settings_are_asked_again_and_kept(toy, tmp_path, caplog):
    """Each file row says how it was made; another setting asks again, and coming back finds the old answers."""
    caplog.set_level("INFO", logger="pivot_jax")
    file, aside = tmp_path / "p.jsonl", tmp_path / "p.others.jsonl"

    def ask(text, limit=0, max_new_tokens=0, **settings):
        model = Scripted(lambda e: text, **settings)
        benchmarks.run_benchmark("mmvp", ".", model, file, limit=limit, max_new_tokens=max_new_tokens, show=False)
        return model.asked, [row["answer"] for row in predictions.read(file)]

    assert ask("A", temperature=0.0) == ([*"123456"], ["A"] * 6)
    assert ask("B", limit=2, temperature=1.0, seed=3) == ([*"12"], ["B"] * 2)
    assert "6 answers were made under other settings (temperature 0.0 → 1.0, seed (none) → 3)" in caplog.text
    assert ask("C", limit=2, temperature=1.0, seed=3) == ([], ["B"] * 2)
    assert ask("D", limit=2, temperature=1.0, seed=4) == ([*"12"], ["D"] * 2)
    assert ask("E", limit=2, max_new_tokens=5, temperature=0.0) == ([*"12"], ["E"] * 2)
    assert "max_new_tokens 16 → 5" in caplog.text
    assert ask("F", temperature=1.0, seed=3) == ([*"3456"], ["B"] * 2 + ["F"] * 4)
    assert ask("G", limit=2, temperature=0.0) == ([], ["A"] * 6)
    assert len(predictions.read(aside)) == 6 + 6 + 2 + 2
    rows = predictions.read(file)  # a file from before settings were written down
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "settings"}) + "\n" for row in rows))
    assert ask("H", temperature=0.5) == ([*"123456"], ["H"] * 6)
    assert caplog.text.count("\n") == 6


def test_an_answerer_says_what_its_answers_depend_on():
    """A greedy answer does not depend on the seed; a sampled one on seed and batch."""
    chat = SimpleNamespace(end_id=1, max_images=1, cutter=None)
    mllm = SimpleNamespace(config=SimpleNamespace(vision=SimpleNamespace(image_size=8)))
    greedy = [Answerer(mllm, {}, chat, seed=seed, batch_size=2 + seed).settings for seed in (0, 1)]
    assert greedy[0] == greedy[1] == {"temperature": 0.0, "preset": "siglip", "blank_images": False}
    sampled = [Answerer(mllm, {}, chat, seed=seed, temperature=0.5).settings for seed in (0, 1)]
    assert sampled[0] != sampled[1]
    assert Answerer(mllm, {}, chat, blank_images=True).settings != greedy[0]


def test_a_limit_holds_for_the_score(toy, tmp_path):
    right = Scripted(lambda e: "AB"[(int(e.id) - 1) % 2] if int(e.id) < 3 else "")
    file = tmp_path / "p.jsonl"
    assert benchmarks.evaluate("mmvp", ".", right, file, show=False).value.value == pytest.approx(1 / 3)
    found = benchmarks.evaluate("mmvp", ".", right, file, limit=2, show=False)
    assert found.ids == ("1", "2") and found.value.value == 1.0
    assert len(predictions.read(file)) == 6


def test_ranks_that_are_missing_are_computed_without_asking_again(toy, tmp_path):
    file = tmp_path / "p.jsonl"
    benchmarks.run_benchmark("mmvp", ".", Scripted(lambda e: "A"), file, limit=4, show=False)
    again = Scripted(lambda e: "A", option=1)
    found = benchmarks.evaluate("mmvp", ".", again, file, ranked=True, chunk=3, show=False)
    assert again.asked == [*"56"] and again.ranked == [*"123456"]
    assert found.also["ranked"].n == 3 and [row["ranked"] for row in predictions.read(file)] == ["B"] * 6
    third = Scripted(lambda e: "A")
    assert "ranked" in benchmarks.evaluate("mmvp", ".", third, file, ranked=True, show=False).also
    assert third.asked == third.ranked == []


def test_odd_answers_survive_the_file(toy, tmp_path):
    odd = "a\u2028b\x85c\n\ud83d \x00 é"
    file = benchmarks.run_benchmark("mmvp", ".", Scripted(lambda e: odd), tmp_path / "p.jsonl", show=False)
    assert [row["answer"] for row in predictions.read(file)] == [odd] * 6
    again = Scripted(lambda e: "A")
    benchmarks.run_benchmark("mmvp", ".", again, file, show=False)
    assert again.asked == [] and benchmarks.score(file).value.value == 0


def test_ranked_options_are_scored_beside_the_text(toy, tmp_path):
    chatty = Scripted(lambda e: "Well, that is hard to say.", option=0)
    found = benchmarks.evaluate("mmvp", ".", chatty, tmp_path / "p.jsonl", ranked=True, show=False)
    assert found.value.value == 0 and found.compliance == 0
    assert found.also["ranked"].value == 0  # always A: one of each pair
    assert benchmarks.score(tmp_path / "p.jsonl").also["ranked"] == found.also["ranked"]


def test_score_needs_one_benchmark(tmp_path):
    file = tmp_path / "p.jsonl"
    rows = [{"question_id": str(i), "answer": "A", "gt_answer": "A", "benchmark": n} for i, n in enumerate("ab")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="it holds a, b"):
        benchmarks.score(file)
    file.write_text('{"question_id": 1, "gt_answer": "A"}\n')
    with pytest.raises(UserError, match="line 1: field 'answer' is missing"):
        benchmarks.score(file, "mmvp")
    file.write_text("not json\n{}\n")
    with pytest.raises(UserError, match="line 1: no JSON object"):
        benchmarks.score(file, "mmvp")
    with pytest.raises(UserError, match="does not exist"):
        benchmarks.score(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="there are mmvp, scienceqa, mathvision, scenes"):
        benchmarks.find("mmbench")


def test_official_layout_of_mmvp(tmp_path):
    (tmp_path / "Questions.csv").write_text(
        "Index,Question,Options,Correct Answer\n"
        '1,"Open or closed, which?",(a) Open (b) Closed,(a)\n2,"Open or closed, which?",(a) Open (b) Closed,(b)\n',
        encoding="utf-8-sig",
    )
    first, second = questions.mmvp(tmp_path)
    assert first.messages[0].content == (
        "<image>\nOpen or closed, which? Options:\nA. Open\nB. Closed"
        "\nAnswer with the option's letter from the given choices directly."
    )
    assert first.images[0].endswith("1.jpg") and first.extra["unit"] == second.extra["unit"] == 0
    assert second.extra["answer"] == "B"
    with pytest.raises(UserError, match="no folder at"):
        questions.mmvp(tmp_path / "none")
    with pytest.raises(UserError, match="neither data.json nor Questions.csv"):
        (tmp_path / "Questions.csv").unlink()
        questions.mmvp(tmp_path)


@pytest.mark.parametrize("name", ["mmvp", "scienceqa", "mathvision", "scenes"])
def test_the_wrong_place_says_what_lies_there(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"it holds: cat\.png"):
        benchmarks.BENCHMARKS[name].read(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"did you mean '.*/pictures'\?|does not exist"):
        benchmarks.BENCHMARKS[name].read(tmp_path / "picture")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("# a page\n", "(is no file of its questions|nor one JSON object a line) .malformed JSON"),
        ('{"id": 1, "answer": "A"}\n', "'?question'?"),
        ("", "is empty"),
    ],
)
def test_other_files_are_not_questions(tmp_path, content, says):
    for name, file in (("scienceqa", "data.jsonl"), ("mathvision", "data.jsonl"), ("mmvp", "data.json")):
        (tmp_path / file).write_text(content)
        with pytest.raises(UserError, match=says):
            benchmarks.BENCHMARKS[name].read(tmp_path)
    (tmp_path / "data.json").unlink()
    (tmp_path / "Questions.csv").write_text("Index,Question\n1,Why?\n")
    with pytest.raises(UserError, match="no column 'Options'"):
        questions.mmvp(tmp_path)


def test_whole_mmvp(shared_data, tmp_path):
    examples = questions.mmvp(shared_data / "mmvp")
    assert len(examples) == 300 and len({example.extra["unit"] for example in examples}) == 150
    assert all(len(example.extra["choices"]) == 2 for example in examples)
    oracle = Scripted(lambda e: e.extra["answer"])
    found = benchmarks.evaluate("mmvp", shared_data / "mmvp", oracle, tmp_path / "right.jsonl", show=False)
    assert found.value.value == 1.0 and found.value.n == 150 and found.compliance == 1.0
    texts = Scripted(lambda e: e.extra["choices"]["AB".index(e.extra["answer"])])
    found = benchmarks.evaluate("mmvp", shared_data / "mmvp", texts, tmp_path / "texts.jsonl", show=False)
    assert found.value.value == 1.0 and found.compliance == 0.0
    blind = Scripted(lambda e: "A")
    found = benchmarks.evaluate("mmvp", shared_data / "mmvp", blind, tmp_path / "blind.jsonl", show=False)
    assert found.value.value < 0.02 and 0.4 < found.also["question_accuracy"].value < 0.6


@pytest.mark.parametrize("name", ["scienceqa", "mathvision"])
def test_other_real_benchmarks(shared_data, tmp_path, name):
    folder = shared_data / {"scienceqa": "scienceqa_test_img", "mathvision": "mathvision"}[name]
    oracle = Scripted(lambda e: e.extra["answer"])
    found = benchmarks.evaluate(name, folder, oracle, tmp_path / "p.jsonl", limit=200, show=False)
    assert found.value.value == 1.0 and len(found.ids) == 200
    assert all(row["prompt"].startswith("<image>\n") for row in predictions.read(tmp_path / "p.jsonl"))


def test_scores_are_seeded(toy, tmp_path):
    answer = Scripted(lambda e: "A" if int(e.id) % 3 else "B")
    file = benchmarks.run_benchmark("mmvp", ".", answer, tmp_path / "p.jsonl", show=False)
    first, again = benchmarks.score(file, seed=1), benchmarks.score(file, seed=1)
    assert first.value == again.value and np.array_equal(first.scores, again.scores)
