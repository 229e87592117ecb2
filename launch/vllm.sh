#!/bin/bash
# Starts a vLLM server for rollouts (rollout/vllm):
#
#   launch/vllm.sh FOLDER PORT [more options of vLLM]
#   launch/vllm.sh FOLDER PORT --no-enable-chunked-prefill    # the CPU build
#
# FOLDER is what `pivot-jax export-hf` writes. VLLM_PYTHON is the interpreter that has vLLM 0.32 or later (default: the
# one of `make test-vllm`). The server obeys whoever reaches it, because development mode allows new weights: keep --host
# to a network of your own.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: launch/vllm.sh FOLDER PORT [options of vLLM]" >&2; exit 2; }
python=${VLLM_PYTHON:-"$(dirname "$0")/../.venv-vllm/bin/python"}
command -v "$python" >/dev/null || { echo "no Python at $python; set VLLM_PYTHON, or run make test-vllm" >&2; exit 1; }
folder=$1 port=$2
shift 2

export VLLM_SERVER_DEV_MODE=1
# The module, because the `vllm` command of the CPU build does not start.
exec "$python" -m vllm.entrypoints.openai.api_server --model "$folder" --host 127.0.0.1 --port "$port" \
  --logprobs-mode processed_logprobs --enable-scale-out "$@"
