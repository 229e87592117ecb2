"""Reading images of every kind, and preprocessing as the encoders' own processors do it."""

from __future__ import annotations

import importlib
import io
import math
import os

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing import images
from pivot_jax.errors import UserError
from tests.tiny.processing import normalise


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with an edge, so that resampling and cropping show."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    big = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    big[height // 3 : height // 2, width // 4 : width // 3] = (255, 0, 10)
    return Image.fromarray(big)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def hf_processor(preset: str, size: int):
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    rule = images.PRESETS[preset]
    stats = {"image_mean": list(rule.mean), "image_std": list(rule.std), "resample": Image.Resampling.BICUBIC}
    if preset == "siglip":
        return SiglipImageProcessorPil(size={"height": size, "width": size})
    kind = CLIPImageProcessorPil if preset == "clip" else BitImageProcessorPil
    return kind(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **stats)


@pytest.mark.parametrize(
    ("preset", "size"), [("siglip", 384), ("siglip", 32), ("clip", 224), ("clip", 336), ("dinov2", 518)]
)
@pytest.mark.parametrize("shape", [(500, 333), (301, 517), (224, 224), (41, 640)])
def test_preprocessing_equals_hugging_face_processors(preset, size, shape):
    image = random_image(*shape)
    theirs = hf_processor(preset, size)(images=image, return_tensors="np")["pixel_values"][0]
    ours = normalise(images.preprocess(image, preset, size), preset)
    assert ours.shape == (size, size, 3)
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, atol=1e-5)


@pytest.mark.parametrize(("preset", "resize"), [("mae", 248), ("sup", 248), ("moco", 256)])
@pytest.mark.parametrize("shape", [(500, 333), (301, 517), (300, 300)])
def test_preprocessing_equals_torchvision_transform(preset, resize, shape):
    """Timm's and torchvision's evaluation transform: Resize(shorter side) with Pillow, then CenterCrop."""
    image = random_image(*shape)
    width, height = image.size
    filter_ = Image.Resampling.BILINEAR if preset == "moco" else Image.Resampling.BICUBIC
    target = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    resized = np.asarray(image.resize(target, filter_))
    top, left = round((target[1] - 224) / 2.0), round((target[0] - 224) / 2.0)
    np.testing.assert_array_equal(images.preprocess(image, preset, 224), resized[top : top + 224, left : left + 224])


PHOTOS = (
    ("mmvet_preference/images/v1_0.jpg", (512, 171)),
    ("mmvet_preference/images/v1_101.jpg", (498, 397)),
    ("llava_pretrain_mini/images/000010124.jpg", (256, 267)),
)
PROCESSORS = {  # preset: transformers' class, its settings at the size that the published files have
    "siglip": ("siglip", {"resample": 3}, 384),
    "siglip2": ("siglip", {"resample": 2}, 512),
    "clip": ("clip", {}, 336),
    "dinov2": ("bit", {"size": {"shortest_edge": 518}, "crop_size": {"height": 518, "width": 518}}, 518),
    "dinov2_224": ("bit", {"size": {"shortest_edge": 256}}, 224),
    "vit": ("vit", {}, 224),
    "vit_imagenet": ("vit", {}, 224),
}


@pytest.mark.parametrize("preset", PROCESSORS)
def test_real_photos_equal_transformers_pillow_processors(shared_data, preset):
    """At most one grey level, on photos of odd sizes."""
    kind, settings, size = PROCESSORS[preset]
    name = {"siglip": "Siglip", "clip": "CLIP", "bit": "Bit", "vit": "ViT"}[kind]
    module = importlib.import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    if kind in ("siglip", "vit", "clip"):
        square = {"height": size, "width": size}
        own = {"size": {"shortest_edge": size}, "crop_size": square} if kind == "clip" else {"size": square}
        settings = own | settings
    rule = images.PRESETS[preset]
    statistics = {"image_mean": list(rule.mean), "image_std": list(rule.std)}
    processor = getattr(module, f"{name}ImageProcessorPil")(**settings, **statistics)
    for file, shape in PHOTOS:
        photo = images.load(shared_data / file)
        assert photo.size == shape
        theirs = processor(images=photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        grey = (theirs * np.float32(rule.std) + np.float32(rule.mean)) * 255
        assert grey.shape == (size, size, 3)
        assert np.abs(images.preprocess(photo, preset, size) - grey).max() <= 1.001


def test_squash_keeps_the_borders_and_the_centre_crop_loses_them():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :60] = (255, 0, 0)
    wide[:, 240:] = (0, 0, 255)
    image = Image.fromarray(wide)
    squashed, cropped = images.preprocess(image, "siglip", 64), images.preprocess(image, "clip", 64)
    assert squashed[32, 2].tolist() == [255, 0, 0] and squashed[32, -3].tolist() == [0, 0, 255]
    assert cropped.max() == 0


def test_preprocessing_golden_values():
    """Hand-written values: a 2x1 image squashed to 1x1 is its mean, and 0.5/0.5 puts 0..255 on -1..1."""
    two = Image.fromarray(np.array([[[0, 0, 0], [200, 100, 50]]], np.uint8))
    pixel = images.preprocess(two, "siglip", 1)
    np.testing.assert_array_equal(pixel, [[[100, 50, 25]]])
    np.testing.assert_allclose(normalise(pixel)[0, 0], [100 / 127.5 - 1, 50 / 127.5 - 1, 25 / 127.5 - 1], atol=1e-6)
    clip = normalise(np.array([[[255, 0, 128]]], np.uint8), "clip")[0, 0]
    wanted = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (128 / 255 - 0.40821073) / 0.27577711]
    np.testing.assert_allclose(clip, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "tokens"),
    [(384, 16, 576), (384, 14, 729), (224, 14, 256), (336, 14, 576), (518, 14, 1369), (224, 16, 196)],
)
def test_tokens_of_an_image(size, patch, tokens):
    assert images.patches(size, patch) == tokens


def test_every_way_to_refer_to_an_image(tmp_path):
    image = random_image(20, 30)
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    for reference in (
        str(path),
        path,
        data,
        np.asarray(image),
        image,
        {"bytes": data},
        {"path": str(path), "bytes": None},
    ):
        np.testing.assert_array_equal(np.asarray(images.load(reference)), np.asarray(image))


def test_modes_become_rgb():
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert np.asarray(images.load(encoded(grey)))[7, 7].tolist() == [63, 63, 63]
    palette = random_image(8, 8).convert("P")
    np.testing.assert_array_equal(np.asarray(images.load(encoded(palette))), np.asarray(palette.convert("RGB")))
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = np.asarray(images.load(encoded(cmyk, "JPEG", quality=95)))[4, 4].astype(int)
    assert red[0] > 240 and red[1] < 15 and red[2] < 15
    deep = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    assert np.asarray(images.load(encoded(deep)))[7, 7].tolist() == [round(63000 / 257)] * 3
    one_bit = Image.new("1", (4, 4), 1)
    assert np.asarray(images.load(encoded(one_bit))).min() == 255


def test_transparency_is_laid_over_white():
    """Black text on a transparent ground would be black on black without this."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 0, 255))
    out = np.asarray(images.load(encoded(image)))
    assert out[0, 0].tolist() == [255, 255, 255] and out[1, 1].tolist() == [0, 0, 0]


def test_camera_rotation_is_applied():
    image = Image.new("RGB", (6, 4), (0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise
    assert images.load(encoded(image, "JPEG", exif=exif)).size == (4, 6)


def test_corrupt_and_missing_files_are_named(tmp_path):
    whole = encoded(random_image(60, 60), "JPEG")
    cases = {"cut.jpg": whole[: len(whole) // 2], "text.jpg": b"this is no image", "empty.png": b""}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name) as caught:
            images.load(tmp_path / name)
        assert "BytesIO" not in str(caught.value)
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        images.load(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for a writer
    for special in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        for read in (images.load, images.size_of):
            with pytest.raises(UserError, match=f"image {special} cannot be read .not a regular file"):
                read(special)
    with pytest.raises(UserError, match="image of 16 encoded bytes cannot be read \\(not an image"):
        images.load(b"this is no image")
    with pytest.raises(UserError, match="float64"):
        images.load(np.zeros((4, 4, 3)))


def test_multi_image_rows_are_padded_with_the_mean_colour():
    square = np.asarray(images.pad_to_square(Image.new("RGB", (10, 4), (255, 255, 255)), "clip"))
    assert square.shape == (10, 10, 3)
    assert square[0, 0].tolist() == [int(x * 255) for x in images.CLIP_MEAN]
    assert square[3, 0].tolist() == [255, 255, 255] and square[2, 0].tolist() == square[0, 0].tolist()


def test_unknown_preset_names_the_known():
    with pytest.raises(UserError, match="siglip, siglip2, clip"):
        images.preprocess(random_image(8, 8), "siglib", 8)


def test_normalise_under_jit_equals_numpy():
    import jax

    pixels = np.asarray(random_image(16, 16))
    np.testing.assert_allclose(jax.jit(normalise)(pixels), normalise(pixels), atol=1e-6)


def test_shorter_sides_of_the_cropping_presets():
    assert [images.PRESETS[name].shorter_side(224) for name in ("clip", "dinov2", "mae", "sup", "moco")] == [
        224, 224, math.floor(224 / 0.9), math.floor(224 / 0.9), 256
    ]  # fmt: skip
