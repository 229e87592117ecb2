"""PIVOT-JAX: does preference RL make a multimodal LLM see better than SFT? The whole pipeline, in JAX.

The public API, imported on first use::

    import pivot_jax as pj

    model = pj.load("run:runs/dpo")                    # or hf:FOLDER, hf:ORG/NAME, pack:FOLDER
    model.chat("What is it?", images=["cat.jpg"])
    pj.train(pj.config("demo/sft.py"), "runs/sft")
    pj.evaluate(model, "mmvp", "data/MMVP")
    pj.probe.classify(pj.load("pack:runs/dpo/pack"), "data/imagenet50")

=================  ==================================================================
``load``           opens a weight source (:func:`pivot_jax.train.open.load`)
``train``          trains a config in a workdir (:func:`pivot_jax.rl.run.run`)
``OnlineRL``       online RL, a step at a time (:class:`pivot_jax.rl.steps.OnlineRL`)
``extract``        a run's encoder as a pack (:func:`pivot_jax.train.extract.extract`)
``evaluate``       runs a benchmark (:func:`pivot_jax.train.evaluation.evaluate`)
``probe``          ``classify``, ``segment``, ``align``, ``gradmap``, ``gradients`` (:mod:`pivot_jax.probe`)
``import_hf``      a Hugging Face folder as a run (:func:`pivot_jax.train.hub_import.import_folder`)
``export_hf``      a run as a Hugging Face folder (:func:`pivot_jax.train.hub_export.export`)
``config``         a config from a file and overrides (:func:`pivot_jax.config.load`)
``data_page``      a page of what a config trains on (:func:`pivot_jax.report.data.page.write`)
``Example``        one row of data, with its ``Message`` turns (:mod:`pivot_jax.data.example`)
``read_data``      rows of a data source as examples (:func:`pivot_jax.data.sources.read`)
``read_metrics``   lines of a ``metrics.jsonl`` (:func:`pivot_jax.train.metrics.read`)
``sample``         samples and scores responses (:func:`pivot_jax.rl.samples.sample`)
``scenes``         the built-in data set (:mod:`pivot_jax.data.scenes`)
``scheme``         the evaluation scheme of online RL on logs of responses (:mod:`pivot_jax.rl.scheme`)
``statistics``     ``over_seeds``, ``difference``, … of scores (:mod:`pivot_jax.eval.statistics`)
``train_bpe``      trains a small tokenizer (:func:`pivot_jax.data.processing.tokenizer.train_bpe`)
``write_twin``     a run as a script for TRL (:func:`pivot_jax.twin.write.write`)
``compare_twin``   trains a run and its twin (:func:`pivot_jax.twin.compare.run_both`)
``Hook``           an evaluation during training (:class:`pivot_jax.train.session.Hook`)
``Interrupted``    raised by ``train`` after a signal, with the state saved
``UserError``      bad input, in one line
=================  ==================================================================
"""

from __future__ import annotations

from importlib import import_module

# In place of typing.TYPE_CHECKING, because importing typing takes milliseconds in which Ctrl-C leaves a traceback: the
# command line imports this file before it handles signals.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_PUBLIC = {  # name → its module and its name there; the module itself where there is none
    "Example": ("data.example", "Example"),
    "Message": ("data.example", "Message"),
    "Hook": ("train.session", "Hook"),
    "Interrupted": ("train.signals", "Interrupted"),
    "OnlineRL": ("rl.steps", "OnlineRL"),
    "UserError": ("errors", "UserError"),
    "compare_twin": ("twin.compare", "run_both"),
    "config": ("config", ""),  # this and train can be called
    "data_page": ("report.data.page", "write"),
    "evaluate": ("train.evaluation", "evaluate"),
    "export_hf": ("train.hub_export", "export"),
    "extract": ("train.extract", "extract"),
    "import_hf": ("train.hub_import", "import_folder"),
    "load": ("train.open", "load"),
    "probe": ("probe", ""),
    "read_data": ("data.sources", "read"),
    "read_metrics": ("train.metrics", "read"),
    "sample": ("rl.samples", "sample"),
    "scenes": ("data.scenes", ""),
    "scheme": ("rl.scheme", ""),
    "statistics": ("eval.statistics", ""),
    "train": ("train", ""),
    "train_bpe": ("data.processing.tokenizer", "train_bpe"),
    "write_twin": ("twin.write", "write"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pivot_jax' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    found = import_module(f"pivot_jax.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
