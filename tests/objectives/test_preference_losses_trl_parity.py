"""Every preference loss against TRL's own code, live: values and gradients for given log-probs.

TRL's trainers are made without a model (``object.__new__``) and given what their loss reads; their ``model`` returns
the log-probs of the test, or logits where TRL takes the log-probs itself.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from pivot_jax import config as configs
from pivot_jax.objectives.pairs import PairStats
from pivot_jax.objectives.preference import combined
from pivot_jax.objectives.preference_losses import LOSSES, PRESETS, terms_of
from tests.tiny import pairs

B, T, VOCABULARY = 5, 7, 11
TOLERANCE = 1e-5  # absolute and relative, of losses and of gradients
LENGTHS = np.asarray([[4, 7], [1, 3], [6, 6], [7, 1], [3, 5]])  # tokens of chosen and rejected answers
SHOWN = np.arange(T) < LENGTHS.T[:, :, None]  # bool [2, b, t]


def draw(seed=0, spread=1.5):
    """(policy, reference, log Σ π²) of the answers' tokens: float32 [2, b, t] each, 0 at padding."""
    rng = np.random.default_rng(seed)
    policy, reference = (-np.abs(rng.normal(2, spread, (2, B, T))) for _ in range(2))
    squares = -rng.uniform(0.2, 3, (2, B, T))
    return [np.where(SHOWN, x, 0).astype(np.float32) for x in (policy, reference, squares)]


def section(**changes):
    made = configs.base().objective
    made.update({"name": "preference", **changes})
    return made


def ours(policy, reference, squares, **changes):
    """(loss, its gradient with respect to the policy's log-probs [2, b, t])."""
    settings, batch = section(**changes), pairs.targets_only(LENGTHS)
    terms = terms_of(settings)
    totals = {name: jnp.sum(LOSSES[name].weights(batch)) for name, _ in terms}
    memory = {name: LOSSES[name].state(settings) for name, _ in terms}
    fixed = [pairs.laid_out(batch, *x) for x in (reference, squares)]

    def loss(logps):
        return combined(terms, PairStats(logps, fixed[0], batch, settings, fixed[1]), totals, memory)[0]

    value, grads = jax.value_and_grad(loss)(jnp.asarray(pairs.laid_out(batch, *policy)))
    out = np.zeros((2, B, T), np.float32)
    for answer in (0, 1):
        for row in range(B):
            own = batch.target_branches[row] == answer + 1
            out[answer, row, : own.sum()] = np.asarray(grads)[row, own]
    return float(value), out


class Given(torch.nn.Module):
    """A model whose log-probs are given, [2b, t], and 0 where there is no label, as TRL's fused head returns them."""

    is_gradient_checkpointing = False

    def __init__(self, logps, squares=None):
        super().__init__()
        self.logps, self.squares = logps, squares

    def forward(self, labels, **_):
        nothing = torch.zeros_like(self.logps)
        return SimpleNamespace(
            log_probs=torch.where(labels[:, 1:] == -100, 0.0, self.logps),
            entropy=nothing, mean_logits=nothing, is_top1=nothing.bool(),
            log_sum_sq_probs=self.squares,
        )  # fmt: skip


ALONE = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)  # one process


def made(kind, **attributes):
    """A trainer of TRL's with these attributes, of one process, without a data set."""
    trainer = object.__new__(kind)
    common = dict(accelerator=ALONE, aux_loss_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
                  _total_train_tokens=0, _tp_size=1)  # fmt: skip
    for name, value in {**common, **attributes}.items():
        setattr(trainer, name, value)
    return trainer


def dpo_trainer(policy, reference, squares, *, loss_type, loss_weights=None, **changes):
    """(loss, gradient [2, b, t]) of TRL's DPOTrainer; ``changes`` are fields of its DPOConfig."""
    joined = [torch.tensor(x.reshape(2 * B, T)) for x in (policy, reference, squares)]
    logps = joined[0].requires_grad_()
    settings = dict(beta=0.1, label_smoothing=0.0, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
                    ld_alpha=None, use_weighting=False, discopop_tau=0.05) | changes  # fmt: skip
    arguments = SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=settings.pop("discopop_tau"))
    trainer = made(
        DPOTrainer, model=Given(logps), ref_model=Given(joined[1]), precompute_ref_logps=False, args=arguments,
        loss_types=loss_type, loss_weights=loss_weights or [1.0] * len(loss_type), **settings,
    )  # fmt: skip
    shown = np.pad(SHOWN.reshape(2 * B, T), ((0, 0), (1, 0)))  # one token of prompt, of which nothing is predicted
    inputs = {
        "input_ids": torch.zeros(shown.shape, dtype=torch.long),
        "completion_mask": torch.tensor(shown, dtype=torch.long),
        "attention_mask": torch.ones(shown.shape, dtype=torch.long),
    }
    loss = trainer._compute_loss(Given(logps, joined[2]), inputs, False)
    loss.backward()
    return loss.item(), logps.grad.numpy().reshape(2, B, T)


def assert_same(mine, theirs):
    np.testing.assert_allclose(mine[0], theirs[0], rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(mine[1], theirs[1], rtol=TOLERANCE, atol=TOLERANCE)
    assert np.abs(theirs[1]).max() > 1e-4, "a gradient of zero proves nothing"


# loss → settings beside the defaults. TRL's sigmoid ignores label smoothing; its bco_pair has no running mean.
PAIRED = {
    "sigmoid": {}, "hinge": {}, "ipo": {}, "exo_pair": {"label_smoothing": 1e-3}, "nca_pair": {},
    "robust": {"label_smoothing": 0.2}, "bco_pair": {}, "sppo_hard": {}, "aot": {"label_smoothing": 0.1},
    "aot_unpaired": {"label_smoothing": 0.1}, "apo_zero": {}, "apo_down": {}, "discopop": {"discopop_tau": 0.3},
    "sft": {}, "sigmoid_norm": {},
}  # fmt: skip
SHIFT = {"bco_pair": {"bco_shift": "none"}}


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("name", PAIRED)
def test_losses_of_dpo_trainer(name, beta):
    data, settings = draw(), PAIRED[name] | {"beta": beta}
    mine = ours(*data, terms=((name, 1.0),), **settings, **SHIFT.get(name, {}))
    assert_same(mine, dpo_trainer(*data, loss_type=[name], **settings))


def test_the_losses_of_dpo_trainer_are_all_of_trl():
    """TRL names them in the error for one that it does not know."""
    with pytest.raises(ValueError, match="Unknown loss type") as caught:
        dpo_trainer(*draw(), loss_type=["no_such_loss"])
    listed = set(str(caught.value).partition("[")[2].rstrip("]").replace("'", "").split(", "))
    assert listed == PAIRED.keys() and listed <= LOSSES.keys()


DIFFERENCES = ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop"]


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_f_divergences_of_dpo_trainer(name, divergence):
    data = draw(spread=0.3)  # e^20 and more has no digits left to compare
    settings = PAIRED[name] | {"f_divergence_type": divergence}
    if divergence == "alpha_divergence":
        settings |= {"f_alpha_divergence_coef": 0.7}
    assert_same(ours(*data, terms=((name, 1.0),), **settings), dpo_trainer(*data, loss_type=[name], **settings))


def test_alpha_divergence_at_1_is_reverse_kl():
    data, settings = draw(), {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}
    mine = ours(*data, terms=(("sigmoid", 1.0),), **settings)
    assert_same(mine, dpo_trainer(*data, loss_type=["sigmoid"], **settings))
    assert mine[0] == ours(*data, terms=(("sigmoid", 1.0),))[0]


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("name", [name for name in PAIRED if "ld_alpha" in LOSSES[name].reads])
def test_ld_dpo_of_dpo_trainer(name, alpha):
    data, settings = draw(), PAIRED[name] | {"ld_alpha": alpha}
    mine = ours(*data, terms=((name, 1.0),), **settings, **SHIFT.get(name, {}))
    assert_same(mine, dpo_trainer(*data, loss_type=[name], **settings))
    assert abs(mine[0] - ours(*data, terms=((name, 1.0),), **PAIRED[name], **SHIFT.get(name, {}))[0]) > 1e-3


@pytest.mark.parametrize("name", [name for name in PAIRED if "use_weighting" in LOSSES[name].reads])
def test_wpo_weights_of_dpo_trainer(name):
    data, settings = draw(), PAIRED[name] | {"use_weighting": True}
    mine = ours(*data, terms=((name, 1.0),), **settings, **SHIFT.get(name, {}))
    if name == "hinge":  # whose values TRL multiplies in place, which PyTorch cannot differentiate
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            dpo_trainer(*data, loss_type=[name], **settings)
        aligned = np.where(SHOWN, data[0] - data[2], 0).sum(2) / LENGTHS.T
        weights = np.exp(aligned.sum(0))
        grads = dpo_trainer(*data, loss_type=[name])[1] * weights[:, None]
        margins = 0.1 * (np.diff((data[0] - data[1]).sum(2)[::-1], axis=0)[0])
        theirs = np.mean(np.maximum(1 - margins, 0) * weights), grads
    else:
        theirs = dpo_trainer(*data, loss_type=[name], **settings)
    np.testing.assert_allclose(mine[0], theirs[0], rtol=TOLERANCE)
    np.testing.assert_allclose(mine[1], theirs[1], rtol=TOLERANCE, atol=1e-8)
    assert np.abs(theirs[1]).max() > 1e-6


COMBINATIONS = {
    "TRL's MPO": (PRESETS["mpo"], {"bco_shift": "none"}, {}),
    "γ·NLL": ((("sigmoid", 1.0), ("sft", 0.3)), {}, {}),
    "f-DPO and NLL": ((("hinge", 0.5), ("sigmoid", 2.0), ("sft", 0.1)), {"f_divergence_type": "js_divergence"}, None),
    "LD, robust and APO": ((("robust", 0.5), ("apo_zero", 2.0)), {"ld_alpha": 0.5, "label_smoothing": 0.1}, None),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_weighted_combinations_of_dpo_trainer(name):
    terms, mine, theirs = COMBINATIONS[name]
    names, weights = zip(*terms, strict=True)
    theirs = mine if theirs is None else theirs
    data = draw()
    assert_same(ours(*data, terms=terms, **mine), dpo_trainer(*data, loss_type=names, loss_weights=weights, **theirs))


# ---- trainers that take log-probs from logits: CPO and SimPO, ORPO


def from_logits(kind, ours_changes, **attributes):
    """Assert equality of loss and gradient with respect to the logits, of TRL's ``get_batch_loss_metrics``."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (2 * B, T + 1, VOCABULARY)).astype(np.float32)
    ids = rng.integers(1, VOCABULARY, (2 * B, T + 1))
    shown = np.pad(SHOWN.reshape(2 * B, T), ((0, 0), (1, 0)))
    joined = {
        "concatenated_input_ids": torch.tensor(ids),
        "concatenated_attention_mask": torch.tensor(
            np.pad(shown[:, 1:], ((0, 0), (1, 0)), constant_values=1).astype(int)
        ),
        "concatenated_labels": torch.tensor(np.where(shown, ids, -100)),
    }
    given = torch.tensor(logits, requires_grad=True)
    trainer = made(kind, is_encoder_decoder=False, pad_token_id=0, padding_value=0, **attributes)
    trainer.concatenated_inputs = lambda *args, **kwargs: joined
    batch = {"chosen_labels": joined["concatenated_labels"][:B]}
    loss, _ = trainer.get_batch_loss_metrics(lambda *args, **kwargs: SimpleNamespace(logits=given), batch)
    loss.backward()

    settings, target = section(**ours_changes), pairs.targets_only(LENGTHS)
    terms = terms_of(settings)
    totals = {name: jnp.sum(LOSSES[name].weights(target)) for name, _ in terms}
    row, column = np.nonzero(target.weights)
    branch = target.target_branches[row, column]
    place = np.concatenate([np.arange(n) for n in LENGTHS.ravel()])  # of each target in its answer

    def mine(logits):
        logps = jax.nn.log_softmax(logits)[(branch - 1) * B + row, place]  # of all tokens
        own = jnp.take_along_axis(logps, ids[(branch - 1) * B + row, place + 1][:, None], axis=1)[:, 0]
        values = jnp.zeros(target.weights.shape).at[row, column].set(own)
        return combined(terms, PairStats(values, None, target, settings), totals, None)[0]

    value, grads = jax.value_and_grad(mine)(jnp.asarray(logits))
    assert_same((float(value), np.asarray(grads)), (loss.item(), given.grad.numpy()))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_simpo_of_cpo_trainer(smoothing):
    from_logits(
        CPOTrainer, dict(name="simpo", beta=2.0, simpo_gamma=0.8, label_smoothing=smoothing),
        loss_type="simpo", beta=2.0, simpo_gamma=0.8, label_smoothing=smoothing, cpo_alpha=0.0, alpha=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cpo_and_its_nll_of_cpo_trainer(smoothing):
    from_logits(
        CPOTrainer, dict(name="cpo", beta=0.3, label_smoothing=smoothing),
        loss_type="sigmoid", beta=0.3, label_smoothing=smoothing, cpo_alpha=1.0, alpha=0.0,
    )  # fmt: skip


def test_simpo_with_nll_of_cpo_trainer():
    """CPO-SimPO: any weight of the NLL beside."""
    from_logits(
        CPOTrainer, dict(terms=(("simpo", 1.0), ("sft", 0.4))),
        loss_type="simpo", beta=0.1, simpo_gamma=0.5, label_smoothing=0.0, cpo_alpha=0.4, alpha=0.0,
    )  # fmt: skip


def test_orpo_and_its_nll_of_orpo_trainer():
    """With a prompt of one token TRL's NLL, of prompt and answer, is that of the answer."""
    from_logits(ORPOTrainer, dict(name="orpo", beta=0.25), beta=0.25)


# ---- KTO


@pytest.mark.parametrize("sign", [1, -1])  # of the mean log-ratio of unrelated answers: below 0 it counts as 0
def test_kto_of_kto_trainer(sign):
    rng = np.random.default_rng(2)
    label = np.asarray([True, False, False, True, False])
    own, other = LENGTHS[:, 0], LENGTHS[:, 1]
    shown = np.arange(T) < np.stack([own, other])[:, :, None]
    policy = np.where(shown, -np.abs(rng.normal(2, 1, shown.shape)), 0).astype(np.float32)
    reference = np.where(shown, policy + rng.normal(0, 1, shown.shape), 0).astype(np.float32)
    reference[1] = policy[1] - sign * 0.3 * shown[1]
    weights = dict(desirable_weight=1.3, undesirable_weight=0.8)

    logps = torch.tensor(policy[0], requires_grad=True)

    class Both(Given):
        """Log-probs of the own answers, or of the unrelated ones, whose ids are 1."""

        def forward(self, input_ids, labels, **_):
            self.logps = self.unrelated if input_ids.any() else self.own
            return super().forward(labels)

    def model(own, unrelated):
        out = Both(own)
        out.own, out.unrelated = own, torch.tensor(unrelated)
        return out

    trainer = made(
        KTOTrainer, model=model(logps, policy[1]), ref_model=model(torch.tensor(reference[0]), reference[1]),
        precompute_ref_logps=False, calculate_KL=True, loss_type="kto", beta=0.4, **weights,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )  # fmt: skip
    masks = [torch.tensor(np.pad(x, ((0, 0), (1, 0))).astype(int)) for x in shown]
    inputs = {
        "input_ids": torch.zeros_like(masks[0]), "completion_mask": masks[0], "attention_mask": masks[0],
        "KL_input_ids": torch.ones_like(masks[1]), "KL_completion_mask": masks[1], "KL_attention_mask": masks[1],
        "label": torch.tensor(label),
    }  # fmt: skip
    loss = trainer._compute_loss(trainer.model, inputs, False)
    loss.backward()
    assert (trainer._metrics["train"]["kl"][0] > 0) == (sign > 0)

    settings = section(name="kto", beta=0.4, **weights)
    batch = pairs.targets_only(np.stack([own * label, own * ~label, other], axis=1))
    answers = lambda x: (x[0], x[0], x[1])  # noqa: E731  a row has the chosen or the rejected one
    fixed = pairs.laid_out(batch, *answers(reference))

    def mine(logps):
        terms = terms_of(settings)
        totals = {"kto": jnp.sum(LOSSES["kto"].weights(batch))}
        return combined(terms, PairStats(logps, fixed, batch, settings), totals, None)[0]

    value, grads = jax.value_and_grad(mine)(jnp.asarray(pairs.laid_out(batch, *answers(policy))))
    found = np.zeros_like(policy[0])
    for row in range(B):
        of_own = batch.target_branches[row] == (1 if label[row] else 2)
        found[row, : own[row]] = np.asarray(grads)[row, of_own]
        np.testing.assert_array_equal(np.asarray(grads)[row, batch.target_branches[row] == 3], 0)
    assert_same((float(value), found), (loss.item(), logps.grad.numpy()))
