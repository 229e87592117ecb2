"""The arguments of ``probe classify | robustness | segment | gradmap | align | forgetting | geometry``."""

from __future__ import annotations

import argparse
import math

from pivot_jax.cli import probe_maps, probes
from pivot_jax.cli.options import command, count, positive, step, whole, workdir

# as probe.alignment_metrics, which is imported only when the command runs
ALIGNMENT = ("mutual_knn", "cycle_knn", "lcs_knn", "edit_distance_knn", "cka", "unbiased_cka", "cknna")


def add(subparsers) -> None:
    parser = command(subparsers, "probe", None, "probe an encoder's features, or map a model's gradients onto an image")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    classify = command(
        kinds, "classify", probes.classify, "fit a probe of image classes on an encoder's features",
        "Data: DIR/{train,val,test}/CLASS/*.jpg; or the folder of a TFDS data set, or of Parquet files by split, with\n"
        "columns image and label. Without val a fifth of train chooses; without test val is reported (ImageNet).",
    )  # fmt: skip
    _encoder(classify)
    _classify(classify)
    robust = command(
        kinds, "robustness", probes.robustness,
        "fit a probe of image classes on clean images and score it under noise, blur, occlusion and shift",
        "Data and options are those of classify; each change has three levels.",
    )  # fmt: skip
    _encoder(robust)
    _classify(robust)
    segment = command(
        kinds, "segment", probes.segment, "train a head on frozen patch features: mean IoU and macro recall",
        "Data: DIR/{train,val,test}/NAME.jpg with class ids in DIR/{train,val,test}annot/NAME.png (CamVid), or the\n"
        "layout of ADE20K (images/training, annotations/training) or of VOC (JPEGImages, SegmentationClass).",
    )  # fmt: skip
    _encoder(segment)
    segment.add_argument(
        "--classes", metavar="NAMES", help="a,b,c in id order, or a file of lines (default: those of ADE20K or VOC)"
    )
    segment.add_argument("--ignore", type=count, metavar="ID", help="id of unlabelled pixels (default for VOC: 255)")
    segment.add_argument(
        "--protocol", choices=("sound", "patch-seg"), default="sound",
        help="sound (default): standardised features, the epoch is chosen on val; patch-seg: the central square of "
        "each image, features as they are, 6 heads, the epoch is chosen on the reported images, which is flagged",
    )  # fmt: skip
    segment.add_argument("--head", choices=("mlp", "linear"), help="default mlp: d, 1024, GELU, classes")
    segment.add_argument("--seeds", type=positive, metavar="N", help="heads to train (default 3; patch-seg 6)")
    _gradmap(kinds)
    _forgetting(kinds)
    geometry = command(
        kinds, "geometry", probes.geometry,
        "measure depth and correspondence of patches on rendered views, where the truth is known at every pixel",
        "Beside them: what the place of a patch in the image alone gives, and chance.",
    )  # fmt: skip
    geometry.add_argument("--encoder", metavar="SOURCE", required=True, help="run:DIR, pack:DIR or hf:DIR")
    geometry.add_argument("--features", choices=("vision", "projector"), default="vision", help="default vision")
    geometry.add_argument("--layer", type=count, metavar="N", help="output of this block (default: --features)")
    geometry.add_argument(
        "--side", type=positive, metavar="PIXELS", help="of the views (default: the encoder's images)"
    )
    geometry.add_argument(
        "--images", type=positive, metavar="N", help="test images (default 150; twice as many to train)"
    )
    geometry.add_argument("--seed", type=count, default=0, metavar="N", help="of the views (default 0)")
    geometry.add_argument("--out", metavar="FILE.json", help="also write the numbers")
    align = command(
        kinds, "align", probes.align,
        "measure how well an encoder's features of images agree with a language model's features of their captions",
        "The score is that of the best pair of layers (Huh et al. 2024), beside what shuffled captions give.",
    )  # fmt: skip
    _encoder(align, features=False)
    words = align.add_mutually_exclusive_group(required=True)
    words.add_argument("--text-model", metavar="SOURCE", help="language model to read the captions: run:DIR or hf:DIR")
    words.add_argument(
        "--text-features", metavar="FILE.npy", help="its features in place of a model: float32 [items, layers, width]"
    )
    align.add_argument("--pool", choices=("mean", "last"), default="mean", help="a caption's tokens (default mean)")
    align.add_argument("--metric", choices=ALIGNMENT, default=ALIGNMENT[0], help=f"default {ALIGNMENT[0]}")
    align.add_argument("--k", type=positive, default=10, metavar="N", help="neighbours (default 10)")
    align.add_argument(
        "--clamp", choices=("exact", "items", "none"), default="exact",
        help="clamp activations at their 95 %% quantile (exact, default), at the mean of the items' quantiles, or not",
    )  # fmt: skip


def _classify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--per-class", type=positive, default=0, metavar="N", help="training images per class")
    parser.add_argument(
        "--pool", choices=("mean", "class", "attention"), default="mean",
        help="mean over patches (default); class: the class token after the closing norm (CLIP, DINOv2, ViT); "
        "attention: SigLIP's pooling head",
    )  # fmt: skip
    parser.add_argument(
        "--method", choices=("logistic", "knn", "sgd", "prototypes"), default="logistic",
        help="logistic regression with scikit-learn's objective (default); weighted nearest neighbours as in DINO; "
        "a linear probe in minibatches, for sets of ImageNet's size; class means",
    )  # fmt: skip
    parser.add_argument(
        "--C", type=_grid, default="wide", metavar="wide|paper|C,C",
        help="grid of logistic: 0.01 to 1e4 (wide, default), or to 3.16 (the paper's six)",
    )  # fmt: skip
    parser.add_argument(
        "--k", type=_counts, default=(10, 20, 100, 200), metavar="K,K", help="grid of knn: 10,20,100,200"
    )
    parser.add_argument(
        "--learning-rates", type=_numbers, default=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0), metavar="R,R",
        help="grid of sgd, trained side by side: 0.003 to 1, for a batch of 256",
    )  # fmt: skip
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="of sgd (default sgd)")
    parser.add_argument("--epochs", type=positive, default=30, metavar="N", help="of sgd (default 30)")
    parser.add_argument("--batch-size", type=positive, default=1024, metavar="N", help="of sgd (default 1024)")
    parser.add_argument("--weight-decay", type=_share, default=0.0, metavar="X", help="of sgd (default 0)")
    parser.add_argument(
        "--choose-on-test", action="store_true",
        help="choose on the reported images, as the paper does (prototypes: built of them); the result flags it",
    )  # fmt: skip


def _forgetting(kinds) -> None:
    parser = command(
        kinds, "forgetting", probes.forgetting,
        "measure what training has left of zero-shot classes and retrieval with the encoder's original text tower",
        "Encoders between the original and the trained one are scored as well (WiSE-FT).",
    )  # fmt: skip
    parser.add_argument("--encoder", metavar="SOURCE", required=True, help="run:DIR, pack:DIR or hf:DIR")
    parser.add_argument(
        "--original", metavar="SOURCE", required=True, help="what it started from, with its text tower: a whole SigLIP "
        "as hf:DIR, or a stage 0 as run:DIR",
    )  # fmt: skip
    parser.add_argument("--classes", metavar="DIR", help="images of classes, as for classify, for zero-shot accuracy")
    parser.add_argument("--captions", metavar="FILE", help="LLaVA rows of an image and its caption, for retrieval")
    parser.add_argument(
        "--template", default="This is a photo of {}.", metavar="TEXT", help="of a class name (default %(default)r)"
    )
    parser.add_argument(
        "--weights", type=_shares, default=(0, 0.25, 0.5, 0.75, 1), metavar="W,…",
        help="of the trained encoder, between 0 and 1 (default 0,0.25,0.5,0.75,1)",
    )  # fmt: skip
    parser.add_argument("--k", type=positive, default=1, help="right if among the K nearest (default 1)")
    parser.add_argument("--out", metavar="FILE.json", help="also write the numbers")


def _gradmap(kinds) -> None:
    parser = command(
        kinds, "gradmap", probe_maps.gradmap, "map an answer's loss gradient onto the image; or Grad-CAM, or attention",
        "With --mask or --box the map is scored against the object: pointing game, energy inside, best IoU. At equal\n"
        "parameters --encoding separate, as published, shows the map without --rejected; shared shows the difference.",
    )  # fmt: skip
    workdir(parser, "the run")
    step(parser)
    parser.add_argument("--image", metavar="FILE", required=True, help="an image")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the question about it")
    parser.add_argument("--answer", metavar="TEXT", required=True, help="the answer, or the chosen one of two")
    parser.add_argument("--rejected", metavar="TEXT", help="a rejected answer, for the map of the preference loss")
    parser.add_argument(
        "--method", choices=("gradient", "gradcam", "rollout"), default="gradient",
        help="size of the gradient (default), Grad-CAM, or attention rollout, which does not depend on the answer",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=_layer, metavar="N|all", help="output of this block, from 0 (default: what the projector reads)"
    )
    parser.add_argument("--norm", choices=("l1", "l2"), default="l1", help="norm of a patch's gradient (default l1)")
    parser.add_argument(
        "--encoding", choices=("shared", "separate"), default="shared",
        help="with --rejected: one encoding of the image for both answers (default), or one for each",
    )  # fmt: skip
    parser.add_argument("--mask", metavar="FILE", help="image of the object: not black where it is")
    parser.add_argument(
        "--box", type=_box, metavar="X1,Y1,X2,Y2", action="append", default=[],
        help="box around the object in pixels of the image; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--gradients", action="store_true",
        help="with --rejected: also the size of the SFT and the DPO loss's gradient in each layer, and their cosine",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE.png", required=True,
        help="the map as an image; the map goes into a .npy file beside it, and its scores into a .json file",
    )  # fmt: skip


def _encoder(parser: argparse.ArgumentParser, features: bool = True) -> None:
    parser.add_argument(
        "--encoder", metavar="SOURCE", required=True, help="run:DIR[@STEP], pack:DIR, hf:DIR or hf:ORG/NAME"
    )
    parser.add_argument("--data", metavar="PATH", required=True, help="see below" if features else "LLaVA JSON")
    parser.add_argument("--out", metavar="FILE.json", help="also write the numbers to this file")
    parser.add_argument(
        "--cache", metavar="DIR", help="folder that keeps the features: the next probe of them runs no encoder"
    )
    if features:
        parser.add_argument(
            "--features", choices=("vision", "projector"), default="vision",
            help="vision: what the projector reads (default); projector: the image tokens that a decoder reads",
        )  # fmt: skip
        parser.add_argument("--layer", type=count, metavar="N", help="output of this block, from 0")
        parser.add_argument("--seed", type=count, default=0, metavar="N", help="random seed (default 0)")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(number) and number > 0 for number in found):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers above 0; write them as 0.1,1,10")
    return found


def _counts(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _grid(text: str) -> tuple[float, ...] | str:
    return text if text in ("wide", "paper") else _numbers(text)


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 0")
    return found


def _layer(text: str) -> int | str:
    return text if text == "all" else whole(text, 0)


def _box(text: str) -> tuple[float, ...]:
    parts = text.split(",")
    try:
        box = tuple(float(part) for part in parts)
    except ValueError:
        box = ()
    if len(box) != 4 or not all(math.isfinite(side) for side in box):
        raise argparse.ArgumentTypeError(f"'{text}' is not a box; write left,top,right,bottom in pixels: 10,20,110,90")
    return box


def _shares(text: str) -> tuple[float, ...]:
    """Numbers from 0 to 1, separated by commas."""
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= share <= 1 for share in found):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers from 0 to 1, such as 0,0.5,1")
    return found
