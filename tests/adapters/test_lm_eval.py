"""The real lm-eval on a tiny Llama, with tasks of local files, against transformers' model of the same folder."""

from __future__ import annotations

import json
from types import SimpleNamespace

import datasets
import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'pivot-jax[lm-eval]')")

from pivot_jax.adapters.lm_eval import LmEvalModel
from pivot_jax.adapters.lm_eval_tasks import TaskOptions, run_tasks
from pivot_jax.adapters.text_tasks import text_tasks
from pivot_jax.cli import main as cli
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import UserError
from pivot_jax.eval.text import PASSAGES
from pivot_jax.train.open import open_language_model
from tests.tiny import hf

MMLU = r"""
dataset_path: parquet
dataset_kwargs: {data_files: {test: FOLDER/mmlu.parquet, dev: FOLDER/mmlu.parquet}}
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
output_type: multiple_choice
num_fewshot: 1
doc_to_text: "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
HELLASWAG = r"""
dataset_path: parquet
dataset_kwargs: {data_files: {validation: FOLDER/hellaswag.parquet}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{activity_label}}: {{ctx}}"
doc_to_choice: endings
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
GSM8K = r"""
dataset_path: parquet
dataset_kwargs: {data_files: {train: FOLDER/gsm8k.parquet, test: FOLDER/gsm8k.parquet}}
training_split: train
fewshot_split: train
test_split: test
output_type: generate_until
num_fewshot: 2
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:", "</s>", "<|im_end|>"], max_gen_toks: 12, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}, {function: take_first}]
"""
TASKS = {"tiny_mmlu": MMLU, "tiny_hellaswag": HELLASWAG, "tiny_gsm8k": GSM8K}


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A random Llama with a tokenizer: its folder, transformers' model, the tokenizer, and our adapter."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = load_tokenizer(train_bpe(PASSAGES, 290, folder))
    theirs = hf.text_model(family="llama", vocab_size=300, max_position_embeddings=512)
    theirs.save_pretrained(folder)
    opened = open_language_model(f"hf:{folder}")
    return folder, theirs, tokenizer, LmEvalModel(opened.module, opened.params, tokenizer, batch_size=3, show=False)


def write_task(folder, name, text, data):
    (folder / f"{name}.yaml").write_text(f"task: {name}{text.replace('FOLDER', str(data))}")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of task files for lm-eval, and their parquet files."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "mmlu": [
            {"question": f"Which is {n}? ", "choices": [str(n + k) for k in range(4)], "answer": n % 4}
            for n in range(5)
        ],
        "hellaswag": [
            {"activity_label": "Baking", "ctx": PASSAGES[n][:60], "endings": [p[:20] for p in PASSAGES[n : n + 4]]}
            | {"label": 0}
            for n in range(4)
        ],
        "gsm8k": [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(4)],
    }
    for name, own in rows.items():
        datasets.Dataset.from_list(own).to_parquet(folder / f"{name}.parquet")
    for name, text in TASKS.items():
        write_task(folder, name, text, folder)
    return folder


def instances(*args):
    return [SimpleNamespace(args=one) for one in args]


def reference(theirs, context, continuation):
    """Log-probability of the continuation's ids after the context's, and whether they are the greedy ones."""
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        logps = torch.log_softmax(theirs(ids).logits[0].double(), -1)[len(context) - 1 : -1]
    targets = ids[0, len(context) :]
    greedy = bool((logps.argmax(-1) == targets).all())
    return float(logps.gather(1, targets[:, None]).sum()), greedy


PAIRS = [
    ("Which is it?\nA. one\nB. two\nAnswer:", " A"),
    ("Which is it?\nA. one\nB. two\nAnswer:", " B"),
    ("The ferry left the harbour ", "twenty minutes late"),  # the blank belongs to the continuation
    ("The ferry left", " the harbour twenty minutes late because a lorry had been parked."),
    ("", "To sharpen a kitchen knife"),
    ("Dear neighbours,", " on"),
    ("Crows remember faces. " * 60, "In one experiment"),  # longer than the model reads
]


def test_log_likelihoods_equal_transformers(language):
    _, theirs, tokenizer, model = language
    found = model.loglikelihood(instances(*PAIRS), disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(PAIRS, found, strict=True):
        whole = tokenizer.encode(context + continuation)
        head = tokenizer.encode(context.rstrip()) if context else [model.prefix_token_id]
        tail = whole[len(head) :] if context else whole
        expected, best = reference(theirs, head[-(model.max_length + 1 - len(tail)) :], tail)
        assert value == pytest.approx(expected, abs=1e-4) and greedy == best


def test_greedy_continuations_are_found(language):
    _, theirs, tokenizer, model = language
    ids = tokenizer.encode("The train from Lund")
    out = theirs.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
    other = [*out[:-1], (out[-1] + 1) % 290]
    found = model._loglikelihood_tokens([(None, ids, out), (None, ids, other)])
    assert [greedy for _, greedy in found] == [True, False]


def test_rolling_log_likelihoods_equal_transformers(language):
    """A text that fits after its first token, and one that is scored in windows."""
    _, theirs, tokenizer, model = language
    short, long = PASSAGES[0], " ".join(PASSAGES[:5])
    found = model.loglikelihood_rolling(instances((short,), (long,)))
    ids = tokenizer.encode(short)
    assert len(ids) < model.max_length < len(tokenizer.encode(long))
    assert found[0] == pytest.approx(reference(theirs, [model.prefix_token_id], ids)[0], rel=1e-6)
    ids, expected, at = tokenizer.encode(long), 0.0, 0
    while at < len(ids):  # windows of the model's length; each predicts what no other has
        end = min(at + model.max_length, len(ids))
        head = [model.prefix_token_id] if at == 0 else ids[end - model.max_length - 1 : at]
        expected, at = expected + reference(theirs, head, ids[at:end])[0], end
    assert found[1] == pytest.approx(expected, rel=1e-6)


def test_generated_text_equals_transformers(language):
    _, theirs, tokenizer, model = language
    contexts = [PASSAGES[0][:40], PASSAGES[1][:90], "Why?"]
    settings = {"until": ["</s>", "\u4e16"], "max_gen_toks": 10, "do_sample": False}
    texts = model.generate_until(instances(*((context, settings) for context in contexts)))
    for context, text in zip(contexts, texts, strict=True):
        ids = torch.tensor([tokenizer.encode(context)])
        out = theirs.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        assert text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    stop = texts[0][4:6]
    (shorter,) = model.generate_until(instances((contexts[0], settings | {"until": [stop]})))
    assert shorter == texts[0].split(stop)[0] and len(shorter) < len(texts[0])


def test_limits_of_a_task_that_do_not_fit(language):
    with pytest.raises(UserError, match="asks for 512 new tokens, and the model reads 512 in all"):
        language[3].generate_until(instances(("a", {"max_gen_toks": 512})))


def test_tasks_of_local_files(language, tasks):
    """lm-eval's scores from our likelihoods equal those that follow from transformers' likelihoods."""
    _, theirs, tokenizer, model = language
    found = run_tasks(model, list(TASKS), TaskOptions(include_path=str(tasks)))
    by_task = {task.task: task for task in found.tasks}
    sizes = {"tiny_mmlu": (5, 1), "tiny_hellaswag": (4, 0), "tiny_gsm8k": (4, 2)}
    assert {name: (one.questions, one.few_shot) for name, one in by_task.items()} == sizes
    rows = datasets.load_dataset("parquet", data_files=str(tasks / "hellaswag.parquet"), split="train")
    right = {"acc": 0, "acc_norm": 0}
    for row in rows:
        context = f"{row['activity_label']}: {row['ctx']}"
        head = tokenizer.encode(context)
        values = [
            reference(theirs, head, tokenizer.encode(f"{context} {ending}")[len(head) :])[0]
            for ending in row["endings"]
        ]
        norm = [value / len(ending) for value, ending in zip(values, row["endings"], strict=True)]
        right["acc"] += values.index(max(values)) == 0
        right["acc_norm"] += norm.index(max(norm)) == 0
    metrics = {one.name: one for one in by_task["tiny_hellaswag"].metrics}
    assert {name: metrics[name].value * len(rows) for name in right} == pytest.approx(right)
    assert metrics["acc"].stderr >= 0 and found.lm_eval and not found.options.chat_template
    assert [one.name for one in by_task["tiny_gsm8k"].metrics] == ["exact_match,strict-match"]


def test_the_chat_template_is_used_where_it_is_asked_for(language, tasks, monkeypatch):
    _, _, tokenizer, model = language
    assert tokenizer.chat_template
    seen, score = [], LmEvalModel._loglikelihood_tokens

    def recorded(self, requests, **kwargs):
        seen.extend(requests)
        return score(self, requests)

    monkeypatch.setattr(LmEvalModel, "_loglikelihood_tokens", recorded)
    run_tasks(model, ["tiny_mmlu"], TaskOptions(str(tasks), limit=1))
    plain = seen[0][0][0]
    assert plain.count("Answer:") == 2  # one example
    seen.clear()
    found = run_tasks(model, ["tiny_mmlu"], TaskOptions(str(tasks), limit=1, few_shot=0, chat_template=True))
    turn = [{"role": "user", "content": plain.split("\n\n")[-1]}]
    assert seen[0][0][0] == tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert found.options.chat_template and (found.tasks[0].questions, found.tasks[0].few_shot) == (1, 0)


@pytest.mark.heavy  # it reads the files of all of lm-eval's tasks
def test_an_unknown_task(language, tasks):
    with pytest.raises(UserError, match="there is no task 'tiny_mmlo'; did you mean 'tiny_mmlu'"):
        run_tasks(language[3], ["tiny_mmlo"], TaskOptions(str(tasks)))


def test_what_cannot_be_run(language, tasks, tmp_path):
    folder, _, _, model = language
    with pytest.raises(UserError, match="no folder of tasks at"):
        run_tasks(model, ["tiny_mmlu"], TaskOptions(str(tmp_path / "none")))
    bare = load_tokenizer(folder)
    bare.chat_template = None
    silent = LmEvalModel(model.module, model.params, bare, show=False)
    with pytest.raises(UserError, match="no chat template; leave --chat-template out"):
        run_tasks(silent, ["tiny_mmlu"], TaskOptions(str(tasks), chat_template=True))
    write_task(tmp_path, "gone", MMLU, tmp_path)
    with pytest.raises(UserError, match="the data of a task cannot be read"):
        run_tasks(model, ["gone"], TaskOptions(str(tmp_path)))


def test_the_command(language, tasks, tmp_path, capsys):
    folder, out = language[0], tmp_path / "tasks.json"
    arguments = ["text", f"hf:{folder}", "--tasks", "tiny_mmlu", "--include-path", str(tasks), "--out", str(out)]
    assert cli.main([*arguments, "--batch-size", "3"]) == 0
    shown = capsys.readouterr().out
    assert "without a chat template" in shown and "tiny_mmlu" in shown and "acc" in shown
    (record,) = json.loads(out.read_text())
    expected = run_tasks(language[3], ["tiny_mmlu"], TaskOptions(str(tasks)))
    assert record["tasks"][0]["metrics"][0]["value"] == expected.tasks[0].metrics[0].value
    assert text_tasks(f"hf:{folder}", ["tiny_mmlu"], include_path=str(tasks)).tasks == expected.tasks
