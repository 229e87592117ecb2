"""Rewards of sampled completions: small functions, run in processes with limits, and added up with weights."""
