"""Perplexity on passages and answers to questions equal those of transformers, for a random Llama."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pivot_jax.cli import main as cli
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import UserError
from pivot_jax.eval.text import PASSAGES, QUESTIONS, Passage, TextAbility, perplexity_ratio
from pivot_jax.train.text_ability import text_ability
from tests.tiny import hf


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A folder of a random Llama with a tokenizer, transformers' model of it, and its result."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = load_tokenizer(train_bpe(PASSAGES, 290, folder))
    theirs = hf.text_model(family="llama", vocab_size=300)
    theirs.save_pretrained(folder)
    return folder, theirs, tokenizer, text_ability(f"hf:{folder}")


def test_texts():
    assert len(PASSAGES) == len(QUESTIONS) == 20 and len(set(PASSAGES)) == 20
    assert 1000 < sum(len(text.split()) for text in PASSAGES) < 1500


def test_perplexity_equals_transformers(language):
    _, theirs, tokenizer, found = language
    nll = tokens = 0
    for text, passage in zip(PASSAGES, found.passages, strict=True):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logps = torch.log_softmax(theirs(torch.tensor([ids])).logits[0].double(), -1)
        expected = -float(logps[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum())
        assert passage.tokens == len(ids) - 1
        assert passage.nll == pytest.approx(expected, rel=1e-5)
        nll, tokens = nll + expected, tokens + len(ids) - 1
    assert found.perplexity.value == pytest.approx(np.exp(nll / tokens), rel=1e-5)
    assert found.perplexity.low < found.perplexity.value < found.perplexity.high and found.perplexity.n == 20


def test_answers_are_greedy(language):
    _, theirs, tokenizer, found = language
    for answer in found.answers[:3]:
        turn = [{"role": "user", "content": answer.prompt}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        out = theirs.generate(ids, max_new_tokens=48, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        assert answer.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_a_model_against_itself(language):
    found = language[3]
    same = perplexity_ratio(found, found)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    worse = TextAbility(tuple(Passage(one.nll + 0.1 * one.tokens, one.tokens) for one in found.passages), found.answers)
    assert perplexity_ratio(found, worse).value == pytest.approx(np.exp(0.1))
    other = TextAbility(found.passages[:-1], found.answers)
    with pytest.raises(UserError, match="of other texts or tokenizers; measure both again"):
        perplexity_ratio(found, other)


def test_the_command(language, tmp_path, capsys):
    folder = language[0]
    out = tmp_path / "text.json"
    assert cli.main(["text", f"hf:{folder}", "--before", f"hf:{folder}", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "of 20 questions right" in shown and "x 1.000 [1.000, 1.000]" in shown
    (record,) = json.loads(out.read_text())
    assert len(record["passages"]) == len(record["answers"]) == 20
    assert record["perplexity"]["value"] == language[3].perplexity.value


def test_what_has_no_text_ability(language, tmp_path):
    hf.vision_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no language model"):
        text_ability(f"hf:{tmp_path}")
