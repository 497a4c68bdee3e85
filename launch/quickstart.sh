#!/usr/bin/env bash
# The first run: fine-tune a small pretrained model under ZeRO-3, merge it, and compare its answers.
#
#   bash launch/quickstart.sh
#   MODEL=/path/to/model DATA=/path/to/chats.jsonl bash launch/quickstart.sh --max_steps 100
#
# Downloads up to 0.7 GB and takes up to 10 minutes on 2 cores; needs no compiler. What is finished is not
# done twice. Everything lands in .venv/ and quickstart/.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# --- knobs
export MODEL="${MODEL:-}"   # a model of your own: a directory, or a name on the Hub
export DATA="${DATA:-}"     # a data set of your own: a file, a directory, or a name on the Hub

bash "$ROOT/launch/setup.sh" gguf
exec "$ROOT/.venv/bin/python" -P -m sft.quickstart "$@"
