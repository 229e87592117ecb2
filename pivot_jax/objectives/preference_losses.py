"""Losses on preference pairs and on labelled answers, by name, and the weighted lists of them that presets are.

A preference objective is a list ((name, weight), ...); its loss is Σ weight * mean of that loss. To add a loss, write a
function in the module of its family (:mod:`paired_losses`, :mod:`reference_free_losses`, :mod:`unpaired_losses`) and
give it an entry in :data:`LOSSES`; ``objective.terms`` can then name it. Names are TRL's.

A loss is ``f(stats, state) -> losses``: ``stats`` is :class:`~pivot_jax.objectives.pairs.PairStats`, ``state`` the
loss's own state or None. It returns one loss per pair, float32 [b, k], per answer, [b, k, 2], or per target, [b, t].
With the weights w of its entry, the sum is Σ losses * w and the weight Σ w, over all micro-batches and devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pivot_jax.errors import UserError, suggest
from pivot_jax.objectives import paired_losses, reference_free_losses, unpaired_losses
from pivot_jax.objectives.pairs import PairStats, chosen_weights, pair_weights, rejected_weights, single_weights

# Settings of config.objective that only some losses read, with their defaults. One that no term reads stays as it is.
SETTINGS = {
    "label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "ld_alpha": 1.0,
    "use_weighting": False,
    "discopop_tau": 0.05,
    "bco_shift": "running_mean",
    "simpo_gamma": 0.5,
    "margin": 1.0,
    "desirable_weight": 1.0,
    "undesirable_weight": 1.0,
    "reference": "stored",
}


@dataclass(frozen=True)
class PairLoss:
    """A preference loss and its properties.

    Attributes:
      function: (stats, state) → losses, [b, k], [b, k, 2] or [b, t].
      weights: batch → the weight of each loss, of the same shape; from the batch alone.
      state: config.objective → the loss's own state at step 0, or None. A state has a method ``update({metric: Term}
        of the whole batch)``, which returns the next step's.
      reads: settings of ``objective`` that it reads besides ``beta``; setting one that no term reads is an error.
      rows: the rows that it takes: ``pairs``, which it compares; ``single`` answers with a label, or pairs as two of
        them; ``any``.
      per_token: its implicit reward is the mean log-prob per token, not the sum (for the metrics of an objective
        without a reference).
      couples_rows: a row's loss depends on other rows of the batch; ``train.accumulate`` must then be 1.
    """

    function: Callable[[PairStats, Any], Any]
    weights: Callable[[Any], Any] = pair_weights
    state: Callable[[Any], Any] = lambda settings: None
    reads: tuple[str, ...] = ()
    rows: Literal["pairs", "single", "any"] = "pairs"
    per_token: bool = False
    couples_rows: bool = False

    @property
    def needs_reference(self) -> bool:
        return "reference" in self.reads


_RATIOS = ("reference", "ld_alpha")  # of a loss that reads log-ratios; WPO's weights then make sense too,
_WEIGHTED = (*_RATIOS, "use_weighting")
_SCORES = (*_WEIGHTED, "f_divergence_type", "f_alpha_divergence_coef")  # and f-DPO if it reads only their difference

LOSSES = {
    "sigmoid": PairLoss(paired_losses.sigmoid, reads=(*_SCORES, "label_smoothing")),
    "hinge": PairLoss(paired_losses.hinge, reads=_SCORES),
    "ipo": PairLoss(paired_losses.ipo, reads=_SCORES),
    "exo_pair": PairLoss(paired_losses.exo_pair, reads=(*_SCORES, "label_smoothing")),
    "nca_pair": PairLoss(paired_losses.nca_pair, reads=_WEIGHTED),
    "robust": PairLoss(paired_losses.robust, reads=(*_SCORES, "label_smoothing")),
    "bco_pair": PairLoss(paired_losses.bco_pair, state=paired_losses.RewardMean.start, reads=(*_WEIGHTED, "bco_shift")),
    "sppo_hard": PairLoss(paired_losses.sppo_hard, reads=_WEIGHTED),
    "aot": PairLoss(paired_losses.aot, reads=(*_RATIOS, "label_smoothing"), couples_rows=True),
    "aot_unpaired": PairLoss(paired_losses.aot_unpaired, reads=(*_RATIOS, "label_smoothing"), couples_rows=True),
    "apo_zero": PairLoss(paired_losses.apo_zero, reads=_WEIGHTED),
    "apo_down": PairLoss(paired_losses.apo_down, reads=_WEIGHTED),
    "discopop": PairLoss(paired_losses.discopop, reads=(*_SCORES, "discopop_tau")),
    "sigmoid_norm": PairLoss(paired_losses.sigmoid_norm, reads=_SCORES),
    "simpo": PairLoss(reference_free_losses.simpo, reads=("simpo_gamma", "label_smoothing"), per_token=True),
    "cpo": PairLoss(reference_free_losses.cpo, reads=("label_smoothing",)),
    "orpo": PairLoss(reference_free_losses.orpo, per_token=True),
    "margin": PairLoss(reference_free_losses.margin, reads=("margin",), per_token=True),
    "sft": PairLoss(reference_free_losses.sft, weights=chosen_weights, rows="any"),
    "unlikelihood": PairLoss(reference_free_losses.unlikelihood, weights=rejected_weights, rows="any"),
    "kto": PairLoss(
        unpaired_losses.kto,
        weights=single_weights,
        reads=("reference", "desirable_weight", "undesirable_weight"),
        rows="single",
        couples_rows=True,
    ),
}

RENAMED = {"bco": "bco_pair"}  # names of earlier versions (config/migration.py reads them in config.json)
Terms = tuple[tuple[str, float], ...]
PRESETS: dict[str, Terms] = {
    "dpo": (("sigmoid", 1.0),),  # PIVOT; with label smoothing, cDPO
    # InternVL: preference, quality, generation; with bco_shift "none", TRL's
    "mpo": (("sigmoid", 0.8), ("bco_pair", 0.2), ("sft", 1.0)),
    "simpo": (("simpo", 1.0),),
    "cpo": (("cpo", 1.0), ("sft", 1.0)),
    "orpo": (("orpo", 1.0), ("sft", 1.0)),
    "kto": (("kto", 1.0),),
    "preference": (),  # exactly the terms of the config
}


def terms_of(section: Any) -> Terms:
    """The weighted losses of ``config.objective``: ``objective.terms``, or those of the preset if it is empty.

    Raises:
      UserError: no terms, an unknown one, one that is listed twice, terms for different rows, or a setting that none
        of them reads or that one of them cannot be combined with.
    """
    terms: Terms = section.terms or PRESETS[section.name]
    if not terms:
        raise UserError(
            f"objective.terms: empty, but objective.name={section.name!r} is exactly these terms; set them, such as "
            f"(('sigmoid', 1.0), ('sft', 0.5)) (losses: {', '.join(LOSSES)})"
        )
    names = [name for name, _ in terms]
    for name in names:
        if name in RENAMED:
            raise UserError(f"objective.terms: {name!r} is {RENAMED[name]!r} now; write that")
        if name not in LOSSES:
            raise UserError(f"objective.terms: no loss {name!r} (losses: {', '.join(LOSSES)}){suggest(name, LOSSES)}")
        if names.count(name) > 1:
            raise UserError(f"objective.terms: {name!r} is listed {names.count(name)} times; give it one weight")
    _check_rows(names)
    _check_settings(section, names)
    return terms


def takes_single_answers(terms: Terms) -> bool:
    """Whether a row may have one answer with a label in place of two, and has an answer to another prompt beside."""
    return any(LOSSES[name].rows == "single" for name, _ in terms)


def _check_rows(names: list[str]) -> None:
    kinds = {LOSSES[name].rows: name for name in names}
    if {"single", "pairs"} <= kinds.keys():
        raise UserError(
            f"objective.terms: {kinds['single']!r} takes single answers, but {kinds['pairs']!r} compares two; train "
            "with one of them"
        )


def _check_settings(section: Any, names: list[str]) -> None:
    listed = ", ".join(names)
    for key, default in SETTINGS.items():
        value = getattr(section, key)
        if value != default and not any(key in LOSSES[name].reads for name in names):
            raise UserError(f"objective.{key}: {value!r}, but no loss of {listed} reads it; set it to {default!r}")
    divergence = section.f_divergence_type
    if divergence != "alpha_divergence" and section.f_alpha_divergence_coef != SETTINGS["f_alpha_divergence_coef"]:
        raise UserError(
            f"objective.f_alpha_divergence_coef: {section.f_alpha_divergence_coef}, but "
            f"objective.f_divergence_type={divergence!r} does not read it; set f_divergence_type to 'alpha_divergence'"
        )
    # f-DPO leaves a term of the prompt that cancels only in differences, and a sort mixes up the pairs' weights: both
    # would be silently ignored, or wrong, in one of several terms.
    for key in ("f_divergence_type", "use_weighting"):
        unable = [name for name in names if LOSSES[name].needs_reference and key not in LOSSES[name].reads]
        if getattr(section, key) != SETTINGS[key] and unable:
            able = ", ".join(name for name in LOSSES if key in LOSSES[name].reads)
            raise UserError(
                f"objective.{key}: {getattr(section, key)!r}, but {unable[0]!r} of objective.terms has no such form "
                f"(losses that have: {able}); set it to {SETTINGS[key]!r}"
            )
    if "exo_pair" in names and not section.label_smoothing:
        raise UserError(
            "objective.label_smoothing: 0.0, but 'exo_pair' takes its logarithm; set it above 0, such as 1e-3"
        )
