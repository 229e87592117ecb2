"""Weight sources: ``run:``, ``pack:`` and ``hf:`` are parsed, described and loaded here, and nowhere else."""

from __future__ import annotations

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.config import paths
from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.images import preset_of
from pivot_jax.data.processing.processor import build_geometry
from pivot_jax.data.processing.tokenizer import GGUF, load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.hub import configs as hub_configs
from pivot_jax.hub.load import Choose, headers
from pivot_jax.hub.load import load_params as load_hub
from pivot_jax.hub.snapshot import folder_of as hub_folder
from pivot_jax.models import lora, zoo
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.encoder import EncoderConfig
from pivot_jax.models.mllm import MLLMConfig
from pivot_jax.train import checkpoint, pack

log = logging.getLogger(__name__)
TOKENIZER = "tokenizer"  # folder in a run's workdir
MOST_PATCHES = 4096  # of an image, of an imported model: 1,024 tokens
_SOURCE = re.compile(r"(?P<kind>run|pack|hf):(?P<path>(package:)?[^@:]+)(@(?P<step>\d+))?(:(?P<prefix>.*))?")


@dataclass(frozen=True)
class WeightSource:
    """``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR``, each with ``[:PREFIX]``: a value of ``config.init``.

    DIR of ``hf:`` may be the name of a model on the hub, a GGUF file, or a file of a projector (see
    ``hub.load_params``); ``hf:package:NAME/FILE`` is a file of an installed Python package (``config.paths.located``).
    Without a prefix, parameters have the same paths in the source as in the target.
    """

    kind: str  # run, pack or hf
    path: Path
    step: int | None
    prefix: str | None

    @classmethod
    def parse(cls, text: str) -> WeightSource:
        """Raises UserError if ``text`` is none of the three."""
        kind, _, whole = text.partition(":")
        if kind in ("run", "pack", "hf") and Path(whole).expanduser().exists():
            return cls(kind, Path(whole).expanduser(), None, None)  # its name may contain an @ or a colon
        found = _SOURCE.fullmatch(text)
        if not found or (found["step"] and found["kind"] != "run"):
            kind = paths.kind_of(text)
            fix = f"; did you mean '{kind}:{text}'?" if kind else ""
            raise UserError(f"'{text}' is not a weight source; write run:WORKDIR[@STEP], pack:DIR or hf:DIR{fix}")
        step = int(found["step"]) if found["step"] else None
        return cls(found["kind"], Path(found["path"]).expanduser(), step, found["prefix"])

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"

    def inside(self, target: str) -> str:
        """The prefix in the source of the parameters below the prefix ``target`` in the model."""
        return target if self.prefix is None else self.prefix

    def read(self, prefix: str, choose: Choose | None = None) -> dict[str, Any]:
        """Flat ``{path: array}`` of the whole source; of a Hugging Face folder only what is below ``prefix``.

        ``choose`` lets a folder be read straight to its devices, and only the wanted parameters (see
        ``hub.load_params``).
        """
        if self.kind == "hf":
            return rules.flatten(load_hub(self.path, choose, prefix=prefix))
        if self.kind == "pack":
            return rules.flatten(pack.load(self.path)[0])
        return rules.flatten(checkpoint.load_run(self.path, self.step))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path → shape of the whole source, from headers alone."""
        if self.kind == "hf":
            return {path: shape for path, (shape, _) in headers(self.path).items()}
        if self.kind == "pack":
            saved = pack.saved(self.path)
        else:
            saved = checkpoint.saved_in_run(self.path, checkpoint.newest(self.path, self.step))
        return {path: tuple(leaf.shape) for path, leaf in saved.items() if not lora.is_adapter(path)}

    def parts(self) -> dict[str, Any]:
        """Part of the model (``vision``, ``second``, ``decoder``) → its configuration in the source, or None.

        Raises:
          UserError: nothing of this kind at the path, or a model that is not supported.
        """
        if self.kind == "hf":
            found = hub_configs.read(self.path)
            return {"vision": found.vision, "decoder": found.decoder}
        model, _ = self._model()
        return {"vision": model.vision, "second": model.second, "decoder": model.decoder}

    def encoder(self) -> tuple[EncoderConfig, Geometry]:
        """Configuration of the source's encoder (and its projector), and how its images are prepared.

        Raises as :meth:`parts`.
        """
        if self.kind != "hf":
            model, images = self._model()
            return model.encoder, build_geometry(images, model.vision.patch_size)
        found = hub_configs.read(self.path)
        if found.vision is None:
            raise UserError(f"{self.path} is a '{found.model_type}' folder, which holds no vision encoder")
        whole = found.decoder is not None and found.projector is not None
        vision: Any = found.vision
        images = configs.base().data.image.to_dict() | image_section(vision)
        return found.mllm.encoder if whole else EncoderConfig(vision), build_geometry(images, vision.patch_size)

    def encoder_keys(self) -> dict[str, Any]:
        """``model.vision`` and ``data.image`` of a config with the source's encoder.

        Raises:
          UserError: as :meth:`parts`; no encoder, or two.
        """
        found = self.parts()
        if found["vision"] is None or found.get("second") is not None:
            what = "no vision encoder" if found["vision"] is None else "two encoders; set model.vision and model.second"
            raise UserError(f"{self} holds {what}")
        images = image_section(found["vision"]) if self.kind == "hf" else self._model()[1].to_dict()
        return {"model.vision": model_section("vision", found["vision"]), "data.image": images}

    def decoder(self) -> tuple[DecoderConfig, str]:
        """Configuration of the source's language model, and its compute type. Raises as :meth:`parts`."""
        if self.kind != "hf":
            model, _ = self._model()
            return model.decoder, model.dtype
        found = hub_configs.read(self.path)
        if found.decoder is None:
            raise UserError(f"{self} holds no language model")
        return found.decoder, "float32"

    def _model(self) -> tuple[MLLMConfig, Any]:
        """Model and ``data.image`` of a run; of a pack, from its description on top of the base config."""
        if self.kind == "run":
            config = run_config(self.path)
        else:
            about = pack.describe(self.path)
            if not isinstance(about.get("model"), dict):
                raise UserError(f"{self.path}/pack.json does not say which model it is of; {pack.AGAIN}")
            config = configs.base()
            # the pack of a language model says nothing about images
            content = {"model": about["model"], "data": {"image": about.get("image", {})}}
            configs.merge(config, content, where=f"{self.path}/pack.json")
        return zoo.build(config.model, config.data.image), config.data.image


def model_section(part: str, found: Any) -> dict[str, Any]:
    """``config.model.PART`` of a model's encoder (``vision``) or language model (``decoder``)."""
    known = configs.base().model[part]
    return {key: value for key, value in dataclasses.asdict(found).items() if key in known}


def image_section(vision: Any) -> dict[str, Any]:
    """``config.data.image`` of a Hugging Face folder's encoder.

    Raises:
      UserError: a normalisation that no run has.
    """
    if not vision.traits.merges:
        found = {"preset": vision.preset, "size": vision.image_size}
        return {**found, "max_patches": vision.patches} if vision.traits.patch_input else found
    preset = preset_of(vision.family)
    if (vision.mean, vision.std) != (preset.mean, preset.std):
        raise UserError(
            f"the folder's image processor normalises with mean {vision.mean} and deviation {vision.std}, but a run "
            f"with a {vision.family} encoder with {preset.mean} and {preset.std}; such a folder cannot be imported"
        )
    least, most = vision.min_pixels, vision.max_pixels
    patches = min(MOST_PATCHES, most // vision.patch_size**2 // 4 * 4)
    if patches * vision.patch_size**2 < most:
        log.warning(
            "images of more than %d patches are scaled down (data.image.max_patches); the checkpoint's processor "
            "allows %d",
            patches,
            most // vision.patch_size**2,
        )
    return {"preset": vision.family, "max_patches": patches, "min_pixels": least, "max_pixels": most}


def load_params(text: str) -> dict[str, Any]:
    """Parameters of one source (see :class:`WeightSource`) as a nested dict of arrays, for evaluation and export.

    With a prefix, the subtree at it.

    Raises:
      UserError: no such source, or nothing at the prefix.
    """
    source = WeightSource.parse(text)
    found = source.read(source.prefix or "")
    try:
        return rules.select(rules.unflatten(found), source.prefix or "")
    except KeyError:
        there = sorted({name.split("/")[0] for name in found})
        raise UserError(f"{text}: nothing at '{source.prefix}' (it has: {', '.join(there)})") from None


def run_config(workdir: Path) -> Any:
    """The config that a workdir was made with.

    Raises:
      UserError: no run there.
    """
    path = workdir / "config.json"
    if not path.is_file() or paths.kind_of(workdir) == "hf":
        lacks = "" if path.is_file() else " (config.json is missing)"
        raise UserError(f"{workdir} is not a run's workdir{lacks}{paths.instead(workdir, 'run')}")
    return configs.from_file(path)


def config_tokenizer(words: Any) -> Any:
    """The tokenizer that a config's section ``tokenizer`` names; of a GGUF file from the folder made of it, once.

    Raises:
      UserError: as ``tokenizer.load_tokenizer``.
    """
    folder = hub_folder(words.path) if words.path.endswith(GGUF) else words.path
    return load_tokenizer(folder, chat_template=words.chat_template)


def run_tokenizer(workdir: Path) -> Any:
    """The tokenizer that a run carries, so that it opens from any directory; of an older run, that of its config.

    Raises:
      UserError: as ``tokenizer.load_tokenizer``.
    """
    carried = workdir / TOKENIZER
    if carried.is_dir():
        return load_tokenizer(carried)
    path = run_config(workdir).tokenizer.path
    if not Path(path).is_dir():
        raise UserError(
            f"{workdir} is a run of an earlier version, which carries no tokenizer, and tokenizer.path='{path}' of its "
            f"config.json is not here (relative paths start where it was trained); copy that folder to {carried}"
        )
    return load_tokenizer(path)
