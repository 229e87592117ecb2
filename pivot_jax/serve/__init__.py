"""An endpoint in OpenAI's form over a run, a pack or a Hugging Face folder: chat, completions, log-probs, streaming."""
