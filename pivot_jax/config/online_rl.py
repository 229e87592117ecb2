"""The section ``rl`` of a config: online RL, which ``objective.name`` 'policy' selects. As in :mod:`base`."""

from __future__ import annotations

from typing import Any


def section() -> dict[str, Any]:
    """The section, with its defaults."""
    return {
        **_algorithm(),
        **_rewards(),
        # A rollout has data.batch_size prompts. Its update is epochs passes over them in minibatches, each an optimizer
        # step; train.steps counts optimizer steps.
        "responses": 8,  # sampled for each prompt
        "responses_per_row": 0,  # that share a row, and its image and prompt, in training; 0: all
        # Train with positions that count tokens one by one although the model, and the sampler, have M-RoPE (MAYE).
        "text_positions": False,
        "minibatches": 1,  # divides data.batch_size
        "epochs": 1,  # passes over a rollout
        "max_rounds": 10,  # rounds of data.batch_size prompts for one update, where a filter drops groups
        "max_tokens": 512,  # limit of a response, its end token included
        "temperature": 1.0,  # of sampling, and of the log-probs in training; 0: greedy, with log-probs at 1
        "top_p": 1.0,  # the smallest set of tokens with at least this probability; 1: all
        "top_k": 0,  # so many of the most likely tokens; 0: all
        "min_p": 0.0,  # tokens with at least this share of the most likely one's probability; 0: all
        "stop": (),  # strings that end a response, besides the end of the turn
        "engine": "jax",  # jax: the own sampler, on the training mesh | vllm: running servers
        "slots": 0,  # jax: responses that are decoded together; 0: all of a rollout, at most 64
        "block": 32,  # jax: tokens between two refills of the slots
        "vllm": {
            "urls": (),  # of the servers, such as ("http://host:8000",); prompts are spread over all of them
            "folder": "",  # weights are handed over here; the servers see it under the same path. "": in the workdir
            "checksums": True,  # compare the servers' weights with the folder after every update
            "patience_s": 60.0,  # seconds for which a server that does not answer is asked again
            "request_s": 1800.0,  # seconds until a request that it accepted is given up
        },
        # Rollouts from one whose completions are shown in TensorBoard to the next; of these, images that are no files
        # are kept small in completions/images. 0: none. Every rollout has its completions/NUMBER.jsonl.
        "show_every": 10,
        "metric_names": "trl",  # of metrics.jsonl and TensorBoard: trl | verl (train.metric_names has the pairs)
        # Evaluation every eval.every steps, which has to be above 0, by the rewards below.
        "heldout": {
            "sources": (),  # as data.sources; (): none
            "responses": 1,  # to each prompt
            "temperature": 1.0,
            "top_p": 1.0,
        },
    }


def _algorithm() -> dict[str, Any]:
    return {
        # A preset of objectives.presets.PRESETS: maye | reinforce++ | reinforce++-baseline | rloo | trl-grpo |
        # verl-grpo | dr-grpo | dapo | gspo | gspo-token | cispo-trl | cispo-verl | sapo | gmpo | opo | vespo |
        # ppo.
        "algorithm": "",
        # Each key replaces one part of the preset; "", -1 and () keep it. objectives.algorithm.Algorithm has
        # the defaults that presets differ from.
        # grpo | dr_grpo | batch_std | rloo | reinforce++ | reinforce++-baseline | opo | gpg | gdpo | pass_at_k | gae.
        # gae adds a value head to the model, at the paths value/kernel and value/bias. It starts at zero, or from the
        # head of init's source where that has one; optimizer.rules say how fast it learns, with LoRA too.
        "advantage": "",
        "std_eps": -1.0,  # added to the standard deviation that rewards are divided by
        "singleton": "",  # advantage of the only scored response of a group: zero | raw (its reward, as in verl)
        "gamma": -1.0,  # discount of later tokens' rewards, reinforce++ and gae
        "gae_lambda": -1.0,  # gae: 1 is the return-to-go less the value, 0 the error of one step
        "value_coefficient": -1.0,  # gae: weight of the value loss in the loss
        # gae: a value's loss stops falling when it moved by more than this in an update; 0: it may move freely.
        "value_clip": -1.0,
        "whitened_mean": "",  # removed | kept (added back after whitening: MAYE)
        # Whitening takes its statistics over each of so many equal parts of a rollout batch (MAYE: its 7 ranks).
        "statistics_parts": -1,
        "ratio": "",  # token | sequence | sequence_token | sequence_product: what ρ is a ratio of
        "clip": "",  # ppo | dual | cispo-trl | cispo-verl | sapo | gmpo | vespo
        "clip_low": -1.0,  # ε below a ratio of 1; gmpo: in log space
        "clip_high": -1.0,  # ε above; cispo-trl: the largest ratio itself
        "clip_cap": -1.0,  # dual: the largest ratio for a negative advantage
        "sapo_temperatures": (),  # τ of a positive advantage, and of others
        "vespo_shape": (),  # k and λ of an advantage of at least 0, k and λ of others
        # token_mean | sequence_mean | sequence_sum | constant (over responses * max_tokens) | microbatch_token_mean
        "aggregation": "",
        "kl": "",  # k1 | k2 | k3 | k3_corrected | k1+ | k3+ (value of k1 or k3, gradient of k2)
        "kl_in": "",  # loss | reward
        "kl_coefficient": -1.0,  # β; 0: no KL, no reference model
        "kl_clamp": "",  # none | token (±10 of each token's) | mean (±10 of a micro-batch's mean: MAYE)
        # Correction for the difference between sampler and trainer: none | token_truncate | token_mask |
        # sequence_truncate | sequence_mask (product of a response's tokens) | geometric_truncate | geometric_mask.
        "importance": "",
        "importance_low": -1.0,  # bounds of the weights
        "importance_high": -1.0,  # the upper one
        # Groups that are trained with: none | varied (rewards differ) | mean_inside (mean between the bounds below).
        # Each process fills its own part of an update, so the groups that a filter leaves depend on their number.
        "filter": "",
        "filter_reward": "",  # label of the reward that the filter reads, such as the accuracy; "": their total
        "filter_low": -1.0,  # mean_inside: bounds of the mean
        "filter_high": -1.0,  # the upper one
        # Perception: weights of the tokens' advantages by how much each depends on the image: none | vppo | tor | pepo.
        # vppo, tor and perception_coefficient cost a pass over the responses with masked images.
        "token_weights": "",
        "perception_coefficient": -1.0,  # γ of PAPO's divergence from the masked view; 0: none
        "masked_share": -1.0,  # of the squares of 14 pixels that the masked view lacks
        # NoisyRollout: the share of a group that is sampled from noised images; 0: none. All are trained on clean ones.
        "noise_share": -1.0,
        "noise_start": -1.0,  # diffusion step of the noise when training starts, below 1000
        "noise_rate": -1.0,  # steepness of its decay
        "noise_middle": -1.0,  # share of all steps at which half of it is left
        "entropy_coefficient": -1.0,  # of the entropy's bonus in the loss; between -1 and 0 a penalty
        # Responses with a negative advantage whose mean log-prob fell by more than this are left out, nats; 0: none.
        "off_policy_threshold": -1.0,
    }


def _rewards() -> dict[str, Any]:
    return {
        # One dict per reward: {"name": a key of rl.rewards.table.REWARDS (math, choice, number, box, format, …), or a
        # function (prompts, completions, **columns) -> list of float | None as "module:function" or
        # "path/to/file.py:function"} and perhaps "weight" (1.0; 0: logged only), "label" (in metrics, for a reward that
        # is listed twice), "timeout_s", "messages" (True: your function gets chat messages instead of texts), and the
        # function's own options, such as "column": the row's field with the right answer.
        "rewards": (),
        "reward_workers": 2,  # processes that compute rewards; does not change the result
        # Seconds of one call: a completion of a built-in reward, the whole batch of your function. A call that takes
        # longer is ended. After a failed batch your function is called with each completion alone.
        "reward_timeout_s": 5.0,
        "reward_memory_mib": 2048,  # memory of one call, MiB, beside what its process needs to load the rewards
        # Score of a completion whose reward fails: zero | skip (none, and no part in its group's baseline) | stop
        # (the run, with row and reward in the message)
        "reward_failure": "zero",
        # MAYE's penalty: the total of a truncated or too short completion is penalty_score, whatever its rewards are.
        "penalty_truncated": False,  # for a completion without an end token
        "penalty_min_tokens": 0,  # for one with fewer tokens, its end token counted (MAYE: 2)
        "penalty_score": -0.1,  # the total of these two
    }
