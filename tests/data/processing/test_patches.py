"""Variable-resolution images: sizes, patches, order, tokens and positions, compared with transformers' processors."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

from pivot_jax.data.example import Example, Message
from pivot_jax.data.loading.image_cache import ImageCache
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.processing import images
from pivot_jax.data.processing.patches import grid_positions, naflex_size, patches_of, positions_after, smart_size
from pivot_jax.data.processing.processor import build_processor
from pivot_jax.errors import RowError, UserError
from tests.data.conftest import config
from tests.tiny import processing

SECTION = {"max_patches": 4096, "min_pixels": 3136, "max_pixels": 1003520}
SIDES = [(70, 42), (84, 126), (480, 640), (1080, 1920), (29, 31), (333, 1000), (14, 2000), (4000, 25), (57, 57)]


def geometry(preset: str, patch: int = 14, **changes):
    made = patches_of({**SECTION, **changes, "preset": preset}, patch)
    assert made is not None
    return made


def photo(height: int, width: int) -> Image.Image:
    """An image with smooth and sharp parts."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 7) + np.cos(y / 5), np.sin(x * y / 997), (x // 9 + y // 11) % 2 * 2 - 1], -1)
    noise = np.random.default_rng(0).normal(0, 0.1, waves.shape)
    return Image.fromarray(np.clip(127 + 90 * (waves + noise), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((70, 42), (56, 56)), ((84, 126), (84, 112)), ((480, 640), (476, 644)), ((1080, 1920), (728, 1316))],
)
def test_halves_are_rounded_to_even(size, expected):
    assert smart_size(*size, 28, 56 * 56, 28 * 28 * 1280) == expected


def test_sizes_are_those_of_transformers():
    for height, width in SIDES:
        for most in (28 * 28 * 16, 28 * 28 * 1280, 12845056):
            assert smart_size(height, width, 28, 3136, most) == smart_resize(height, width, 28, 3136, most)
        for most in (16, 256, 1024):
            assert naflex_size(height, width, 16, most) == get_image_size_for_max_num_patches(height, width, 16, most)
    with pytest.raises(UserError, match="more than 200 times"):
        smart_size(10, 2001, 28, 3136, 10**6)


@pytest.mark.parametrize("preset", ["qwen2_vl", "siglip2_naflex"])
@pytest.mark.parametrize("most", [16, 64, 1024])
def test_no_image_has_more_patches_than_its_list(preset, most):
    for height, width in [*SIDES, (20, 3999), (3999, 20)]:
        rows, columns = geometry(preset, max_patches=most).grid(height, width)
        assert 1 <= rows * columns <= most, (height, width)
        if preset == "qwen2_vl":
            assert rows % 2 == columns % 2 == 0


def theirs_qwen(image: Image.Image, cut) -> np.ndarray:
    """Their patches [n, 588] in our order of numbers, as grey levels; both frames are the same."""
    size = {"shortest_edge": cut.min_pixels, "longest_edge": cut.max_pixels}
    out = Qwen2VLImageProcessorPil(size=size, do_normalize=False, do_rescale=False)(images=[image])
    pixels = np.asarray(out["pixel_values"]).reshape(-1, 3, 2, 14, 14)
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 1])
    return pixels[:, :, 0].transpose(0, 2, 3, 1).reshape(len(pixels), -1)


def check_qwen(image: Image.Image) -> None:
    cut = geometry("qwen2_vl", max_patches=5120)
    patches, places = (x[0] for x in cut.convert(image))
    found = theirs_qwen(image, cut)
    count = int((places[:, 0] >= 0).sum())
    assert count == len(found) and (places[count:] == -1).all() and not patches[count:].any()
    assert np.abs(patches[:count].astype(int) - found).max() <= 1
    windowed = geometry("qwen2_5_vl", max_patches=5120)
    again, other = (x[0] for x in windowed.convert(image))
    by_place = {tuple(place): patch for place, patch in zip(other[:count], again, strict=False)}
    for place, patch in zip(places[:count:7], patches[::7], strict=False):
        np.testing.assert_array_equal(by_place[tuple(place)], patch)


def check_naflex(image: Image.Image) -> None:
    patches, places = (x[0] for x in geometry("siglip2_naflex", 16, max_patches=256).convert(image))
    out = Siglip2ImageProcessorPil(do_normalize=False, do_rescale=False)(images=[image])
    found, mask = np.asarray(out["pixel_values"][0]), np.asarray(out["pixel_attention_mask"][0]) > 0
    rows, columns = out["spatial_shapes"][0]
    np.testing.assert_array_equal(mask, places[:, 0] >= 0)
    np.testing.assert_array_equal(places[mask], np.argwhere(np.ones((rows, columns))))
    assert np.abs(patches[mask].astype(int) - found[mask]).max() <= 1


@pytest.mark.parametrize("size", [(33, 61), (200, 301), (97, 40)])
def test_patches_are_those_of_transformers(size):
    check_qwen(photo(*size))
    check_naflex(photo(*size))


def test_real_photos(shared_data):
    """On photos of odd sizes, to one grey level."""
    found = [
        p
        for name in ("mmvet_preference", "scienceqa_test_img")
        for p in sorted((shared_data / name).rglob("*.[jp][pn]g"))
    ]
    sizes = {images.size_of(path): path for path in found[:60]}
    odd = [path for size, path in sizes.items() if size[0] % 28 and size[1] % 28][:5]
    assert len(odd) == 5
    for path in odd:
        image = images.load(path)
        assert images.size_of(path) == (image.height, image.width)
        check_qwen(image)
        check_naflex(image)


def test_order_and_slots():
    """Windows one after the other, in them 2 x 2 patches of a token; slots find the tokens row by row."""
    cut = dataclasses.replace(geometry("qwen2_5_vl"), window=4)
    order = cut.order(6, 8)
    np.testing.assert_array_equal(order[:8], [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]])
    windows = order[:, 0] // 4 * 2 + order[:, 1] // 4
    assert (np.diff(windows) >= 0).all() and windows.max() == 3
    slots = cut.token_slots(3, 4)
    np.testing.assert_array_equal(order[::4][slots] // 2, np.argwhere(np.ones((3, 4))))
    np.testing.assert_array_equal(geometry("siglip2_naflex").token_slots(3, 5), np.arange(15))


def test_positions_of_the_dossier(shared_data):
    """The M-RoPE cases of transformers 4.51 (acceptance test I32), without their padding."""
    cases = json.loads((shared_data.parent / "reference" / "maye_golden.json").read_text())["cases"]
    used = 0
    for case in cases:
        if not case["id"].startswith("mrope/"):
            continue
        given, grids = case["inputs"], [(h // 2, w // 2) for _, h, w in case["inputs"]["image_grid_thw"]]
        for row, ids in enumerate(np.asarray(given["input_ids"])):
            real = np.asarray(given["attention_mask"][row]) > 0
            is_image = ids[real] == given["image_token_id"]
            own = [grids.pop(0)] if is_image.any() and len(given["input_ids"]) > 1 else grids
            theirs = np.asarray(case["outputs"]["position_ids_qwen25"])[:, row].T[real]
            np.testing.assert_array_equal(grid_positions(is_image, own), theirs, err_msg=case["id"])
            used += 1
    assert used >= 5


def test_positions_after_a_row():
    positions = grid_positions(np.asarray([0, 1, 1, 1, 1, 1, 1, 0], bool), [(2, 3)])
    np.testing.assert_array_equal(positions_after(positions, 2), [[5, 5, 5], [6, 6, 6]])
    np.testing.assert_array_equal(positions_after(np.arange(3), 2), [3, 4])


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_size_of_a_rotated_image(kind, orientation):
    image, exif, file = photo(30, 50), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(file, kind, exif=exif)
    loaded = images.load(file.getvalue())
    assert images.size_of(file.getvalue()) == (loaded.height, loaded.width)


def test_size_of_a_png_with_its_rotation_after_the_pixels(tmp_path):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    photo(30, 50).save(file, "PNG", exif=exif)
    data = file.getvalue()
    start = data.index(b"eXIf") - 4
    size = int.from_bytes(data[start : start + 4], "big") + 12
    moved, end = data[:start] + data[start + size :], len(data) - size - 12
    path = tmp_path / "late.png"
    path.write_bytes(moved[:end] + data[start : start + size] + moved[end:])
    assert images.size_of(str(path)) == images.size_of(path.read_bytes()) == (50, 30)
    assert images.load(str(path)).size == (30, 50)


def test_size_of_a_broken_image():
    with pytest.raises(UserError, match="cannot be read"):
        images.size_of(b"nothing")
    with pytest.raises(UserError, match="does not exist"):
        images.size_of("no/such.png")


def test_room_for_patches_is_needed():
    for preset, most in (("qwen2_vl", 0), ("qwen2_5_vl", 18), ("siglip2_naflex", 0)):
        with pytest.raises(UserError, match="data.image.max_patches"):
            geometry(preset, max_patches=most)
    assert patches_of({**SECTION, "preset": "siglip"}, 14) is None


AROUND = ("<|vision_start|>", "<|vision_end|>")


def talk(made, content, qwen, template) -> None:
    """The same ids as the model's own chat template with its processor's expansion of the placeholders."""
    shown = [part["image"] for part in content if part["type"] == "image"]
    text = "".join("<image>\n" if part["type"] == "image" else part["text"] for part in content)
    row = made.encode(Example("r", (Message("user", text),), tuple(shown)), "prompt")
    rendered = qwen.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    first, *rest = rendered.split("<|image_pad|>")
    for image, part in zip(shown, rest, strict=True):
        rows, columns = made.geometry.token_grid(image)
        first += "<|image_pad|>" * (rows * columns) + part
    assert row.tokens.tolist() == qwen(first, add_special_tokens=False)["input_ids"]


def test_rows_are_those_of_the_real_chat_template(qwen, shared_data):
    folder = shared_data / "qwen2_5_vl_processor"
    made = processing.chat(qwen, geometry=geometry("qwen2_5_vl"), mrope=True, image_around=AROUND, max_images=3)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    one, two = (np.asarray(photo(*size)) for size in ((100, 60), (60, 200)))
    part = lambda image: {"type": "image", "image": image}  # noqa: E731
    words = lambda text: {"type": "text", "text": text}  # noqa: E731
    talk(made, [part(one), words("How many?")], qwen, template)
    talk(made, [part(one), part(two), words("Which is larger?")], qwen, template)
    talk(made, [words("Before "), part(two), words("after.")], qwen, template)
    for case in json.loads((folder / "golden_tokens.json").read_text()):
        assert made.template.text(case["text"]) == case["ids"]


def test_rows_of_chats(tokenizer):
    """Slots go through each image's features, positions restart after the prompt in both answers."""
    cut = dataclasses.replace(geometry("qwen2_5_vl", 4, max_patches=64, min_pixels=64), window=4)
    made = processing.chat(tokenizer, geometry=cut, mrope=True, max_images=2)
    shown = tuple(np.asarray(photo(*size)) for size in ((24, 32), (16, 24)))
    message = (Message("user", "<image>\n<image>\nWhich?"),)
    pair = made.encode(Example("p", message, shown, "The circle.", "No."), "preference")
    slots = pair.image_slots[pair.image_slots >= 0]
    np.testing.assert_array_equal(slots, np.r_[cut.token_slots(3, 4), 16 + cut.token_slots(2, 3)])
    assert pair.positions.shape == (len(pair.tokens), 3)
    prompt = made.encode(Example("p", message, shown), "prompt")
    p = len(prompt.tokens)
    np.testing.assert_array_equal(pair.positions[:p], prompt.positions)
    for branch, answer in ((1, "The circle."), (2, "No.")):
        alone = made.encode(Example("p", (*message, Message("assistant", answer)), shown), "sft")
        own = (pair.branches == 0) | (pair.branches == branch)
        np.testing.assert_array_equal(pair.positions[own], alone.positions)
        np.testing.assert_array_equal(pair.tokens[own], alone.tokens)
    with pytest.raises(RowError, match="no/such.png does not exist"):
        made.encode(Example("q", (Message("user", "<image>?"),), ("no/such.png",)), "prompt")


def test_an_image_that_changes_its_size_masks_its_row(tokenizer, tmp_path):
    """What the row's tokens were counted for is not what there is to see."""
    rows = [{"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A circle."}]}]
    rows = [{**rows[0], "images": [f"{i}.png"]} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(4):
        photo(24, 24 + 8 * i).save(tmp_path / f"{i}.png")
    source = {"format": "trl", "path": str(tmp_path / "rows.jsonl"), "image_root": str(tmp_path)}
    made = config(source, batch_size=4, max_bad_share=1.0)
    with made.unlocked():
        made.data.image.update(preset="qwen2_vl", max_patches=64, min_pixels=64)
    processor = build_processor(made, tokenizer, "sft", patch_size=4, mrope=True)
    loader = build_loader(made, processor)
    first = loader.batch_at(0)
    assert (first.row_index >= 0).all() and first.positions.shape[-1] == 3
    photo(16, 16).save(tmp_path / "2.png")
    again = build_loader(made, processor)  # its index is remembered
    second = again.batch_at(0)
    assert sorted(second.row_index.ravel().tolist()) == [-1, 0, 1, 3]
    assert not second.segments[second.row_index[:, 0] < 0].any()
    assert ["another size" in entry["reason"] for entry in again.skipped.entries.values()] == [True]


def test_images_are_split_and_kept(tokenizer, tmp_path):
    cut = geometry("qwen2_vl", 4, max_patches=64, min_pixels=64)
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, path in enumerate(paths):
        photo(24, 24 + 8 * i).save(path)
    shown = {0: (paths[0],), 1: tuple(paths), 2: (str(Path("no") / "such.png"),)}
    made = processing.processor(tokenizer, geometry=cut, max_images=2)

    def read(rows):
        for row in rows:
            try:
                yield made.read_images(shown[row])
            except UserError as error:
                yield RowError(str(row), str(error))

    for cache in (0, 64):
        kept = ImageCache(made, 3, cache)
        rows = np.asarray([1, -1, 0, 2])
        for _ in range(2):
            (patches, positions), errors = kept.batch(rows, read)
            assert patches.shape == (4, 2, 64, 48) and positions.shape == (4, 2, 64, 2)
            counts = (positions[..., 0] >= 0).sum(-1)
            np.testing.assert_array_equal(counts, [[36, 48], [0, 0], [36, 0], [0, 0]])
            assert [error is None for error in errors] == [True, True, True, False]
            np.testing.assert_array_equal(patches[0, 1], cut.convert(images.load(paths[1])).pixels[0])
            assert not patches[1].any()
