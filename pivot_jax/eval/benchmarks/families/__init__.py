"""One file per family of benchmarks, each with a dict ``BENCHMARKS``; ``suite`` reads them all."""
