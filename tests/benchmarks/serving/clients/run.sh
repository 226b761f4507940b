#!/bin/sh
# Run clients, unchanged, against a gateway:   tests/benchmarks/serving/clients/run.sh http://127.0.0.1:8100/v1 MODEL KEY
# They are installed in a temporary folder, about 300 MB. Node is skipped where it is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export LITELLM_LOCAL_MODEL_COST_MAP=True BASE_URL="$1" MODEL="$2" OPENAI_API_KEY="$3" LLM_USER_PATH="$folder/llm"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q langchain-openai litellm llm aiohttp
"$folder/venv/bin/python" "$here/check_python.py"
if command -v npm >/dev/null; then
  cp "$here/check_node.mjs" "$folder/"
  (cd "$folder" && npm install --silent --no-audit --no-fund openai >/dev/null && node check_node.mjs)
else
  echo "openai (Node): skipped, npm is missing"
fi
