"""The logistic probe over a grid of C: our solver with scikit-learn's lbfgs, on the same features, taking turns.

    python benchmarks/probe_solver.py
    python benchmarks/probe_solver.py --images 5000 --width 256 --classes 100 --sklearn-C 0.1 1 --tolerances 1e-4 1e-6

Features are drawn: class means and noise with falling spectra and a common mean, of unit length, as the probe has them.
Our side fits the whole grid in one call, and its time includes compiling. scikit-learn fits each C by itself, as the
paper does, and only those of ``--sklearn-C`` (a fit takes minutes), to each of ``--tolerances`` (its default is 1e-4)
or at most ``--max-iter`` iterations. Both are scored on images that neither has seen.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Record, Side

PAPER = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)
TEST = 10_000


def draw(images: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length features float32 [n, d] and class numbers."""
    shared, generator = np.random.default_rng(0), np.random.default_rng(seed)
    axis = 1.0 + np.arange(width)
    means = (shared.normal(size=(classes, width)) * axis**-0.5).astype(np.float32)
    common = (0.5 * shared.normal(size=width)).astype(np.float32)
    y = np.arange(images) % classes
    noise = generator.standard_normal((images, width), np.float32) * (axis**-0.25).astype(np.float32)
    x = means[y] + noise + common
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


class Ours:
    def __init__(self, *sizes: int):
        os.environ["JAX_PLATFORMS"] = "cpu"
        self.train, self.test = draw(*sizes, 1), draw(TEST, *sizes[1:], 2)

    def fit(self, grid: tuple[float, ...]) -> dict[str, Any]:
        from pivot_jax.probe import logistic

        start, used = time.perf_counter(), time.process_time()
        fits = logistic.fit_grid(*self.train, grid)
        seconds = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - used}
        x, y = self.test
        rows = [
            {"C": fit.C, "iterations": fit.iterations, "converged": fit.converged,
             "accuracy": float((fit.predict(x) == y).mean())}
            for fit in fits
        ]  # fmt: skip
        return seconds | {"grid": rows}


class ScikitLearn:
    def __init__(self, *sizes: int):
        (x, y), self.test = draw(*sizes, 1), draw(TEST, *sizes[1:], 2)
        self.train = x.astype(np.float64), y  # its lbfgs computes in float64 and would copy

    def fit(self, C: float, tolerance: float, max_iter: int) -> dict[str, Any]:
        import warnings

        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=C, solver="lbfgs", tol=tolerance, max_iter=max_iter, random_state=0)
        start, used = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of max_iter, which the record shows
            model.fit(*self.train)
        seconds = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - used}
        found = {"C": C, "tolerance": tolerance, "iterations": int(model.n_iter_[0]), "max_iter": max_iter}
        return found | seconds | {"accuracy": float(model.score(*self.test))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--C", type=float, nargs="+", default=PAPER)
    parser.add_argument("--sklearn-C", type=float, nargs="+", default=(1.0, 3.16))
    parser.add_argument("--tolerances", type=float, nargs="+", default=(1e-4,))
    parser.add_argument("--max-iter", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "probe_solver.json")
    args = parser.parse_args()
    sizes = args.images, args.width, args.classes
    record = Record(args.json, "cpu")
    record.add("sizes", {"images": args.images, "width": args.width, "classes": args.classes})
    ours, theirs = Side(Ours, *sizes), Side(ScikitLearn, *sizes)
    turns = [(C, tolerance) for tolerance in args.tolerances for C in args.sklearn_C]
    middle = len(turns) // 2
    for index, (C, tolerance) in enumerate(turns):
        if index == middle:
            found = ours.ask("fit", tuple(args.C), limit=7200.0)
            record.add("ours", found)
            print(f"ours, {len(args.C)} values of C: {found['seconds']:.1f} s, CPU {found['cpu_s']:.1f} s")
            for row in found["grid"]:
                print(
                    f"  C {row['C']:<8g} {row['iterations']:4d} iterations   {100 * row['accuracy']:.2f} %", flush=True
                )
        found = theirs.ask("fit", C, tolerance, args.max_iter, limit=7200.0)
        record.add(f"scikit-learn C={C:g} tol={tolerance:g}", found)
        print(
            f"scikit-learn, C {C:g}, tolerance {tolerance:g}: {found['seconds']:.1f} s, CPU {found['cpu_s']:.1f} s, "
            f"{found['iterations']} iterations, {100 * found['accuracy']:.2f} %",
            flush=True,
        )
    ours.close()
    theirs.close()
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
