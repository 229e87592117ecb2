"""easy-VQA (Zhou 2019, the Python package ``easy_vqa``): real images of one shape, as data for every stage."""

from pivot_jax.data.easy_vqa.prepare import Sizes, prepare
from pivot_jax.data.easy_vqa.questions import COLORS, KINDS, SHAPES, Question

__all__ = ["COLORS", "KINDS", "SHAPES", "Question", "Sizes", "prepare"]
