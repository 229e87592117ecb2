"""Tiny models, batches and folders that tests share: `from tests.tiny import hf, mllm, pairs, processing, qwen`."""
