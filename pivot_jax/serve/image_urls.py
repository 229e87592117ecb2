"""Images in requests: ``data:`` URLs, whose pixels are counted before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings

from PIL import Image

from pivot_jax.data.processing import images
from pivot_jax.errors import UserError
from pivot_jax.serve.failure import Failure, bad

# Whose decoders read pixels and nothing else. Pillow knows others that start programs (EPS) or follow links.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_DATA = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[^;,]*)*(?P<base64>;base64)?,", re.IGNORECASE)


def encoded(url: str, param: str) -> bytes:
    """The file in a ``data:image/…;base64,…`` URL.

    Raises:
      Failure: 400, another URL, or something that is not base64.
    """
    head = _DATA.match(url)
    if head is None:
        scheme = url.partition(":")[0][:20] if ":" in url[:20] else ""
        what = f"a URL of the kind '{scheme}:'" if scheme else "not a URL"
        raise bad(param, f"{what}; this server fetches nothing, so send the image itself as data:image/png;base64,…")
    if not head["base64"]:
        raise bad(param, "the data: URL is not marked as base64; write data:image/png;base64,…")
    try:
        return base64.b64decode("".join(url[head.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(param, f"the data: URL is not base64 ({error})") from None


def decoded(content: bytes, most_pixels: int, param: str) -> Image.Image:
    """The image in RGB, upright.

    Raises:
      Failure: 413, more pixels than ``most_pixels``; 400, not an image, of a format not among :data:`FORMATS`, or
        damaged.
    """
    try:
        with warnings.catch_warnings():  # the limit below is ours
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise _too_large("it has more pixels than any image may have", most_pixels, param) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise bad(param, f"not an image of the formats {', '.join(FORMATS)} ({type(error).__name__})") from None
    if width * height > most_pixels:
        raise _too_large(f"it has {width} x {height} pixels", most_pixels, param)
    try:
        return images.load(content)
    except UserError as error:
        raise bad(param, str(error)) from None


def _too_large(found: str, most: int, param: str) -> Failure:
    message = (
        f"{param}: the image is too large: {found}, and this server takes {most:,} (--max-image-pixels); shrink it"
    )
    return Failure(413, message, param=param, code="image_too_large")
