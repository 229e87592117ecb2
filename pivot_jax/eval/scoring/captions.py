"""The score of one caption. The metrics of a whole set of captions are in ``caption_metrics``."""

from __future__ import annotations

import string

from rapidfuzz.distance import LCSseq

from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict

ROUGE_BETA = 1.2  # weight of recall against precision in COCO's ROUGE-L
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def caption(answer: str, gold: Gold) -> Verdict:
    """Our own: the caption is passed on to the metrics; its score is the ROUGE-L of its words (Lin 2004).

    As COCO's code has it: F with β = 1.2 of the best precision and the best recall over all references. It needs no
    other captions, unlike CIDEr, so it says which image was described better in a paired comparison of two models.
    """
    text = answer if (answer or "").strip() else ""
    own, references = _words(text), [words for one in gold.answers if (words := _words(one))]
    common = [LCSseq.similarity(own, words) for words in references]
    if not own or not any(common):
        return Verdict(0.0, text)
    precision = max(common) / len(own)
    recall = max(count / len(words) for count, words in zip(common, references, strict=True))
    return Verdict((1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision), text)


def _words(text: str) -> list[str]:
    return text.lower().translate(_NO_PUNCTUATION).split()


SCORERS: dict[str, Scorer] = {"caption": caption}
