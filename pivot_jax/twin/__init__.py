"""Twins: the run of a config as a script for PyTorch's TRL, or as files for LLaMA-Factory, and both runs' curves."""
