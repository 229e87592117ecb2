"""Rollouts: responses sampled from a model, by its own sampler or by vLLM servers."""
