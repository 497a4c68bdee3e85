#!/usr/bin/env bash
# Train one run on several machines over ssh, where there is no scheduler. They share the file system of the run.
#   HOSTFILE=hosts launch/ssh.sh RUN.yaml [--key value ...]
# Ctrl-C stops the run in order, with a checkpoint; the same command goes on from there.
set -euo pipefail

# --- knobs
HOSTFILE="${HOSTFILE:-hosts}"         # one machine a line, machine 0 first; # begins a comment
PORT="${PORT:-29500}"                 # where they meet on machine 0
SSH="${SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=15}"
LOGS="${LOGS:-ssh-logs}"              # what the machines besides machine 0 print
SFT="${SFT:-$(command -v sft || echo "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/sft")}"

mapfile -t hosts < <(sed -e 's/#.*//' -e 's/[[:space:]].*//' -e '/^$/d' "$HOSTFILE")
read -r -a ssh <<<"$SSH"
mkdir -p "$LOGS"
printf -v words '%q ' "$SFT" launch "$@" --nodes "${#hosts[@]}" --main_process_ip "${hosts[0]}" --main_process_port "$PORT"
# A terminal there hangs up when ssh ends here, by which the supervisor knows that it is to stop.
start() { exec "${ssh[@]}" -tt "${hosts[$1]}" "cd ${PWD@Q} && exec $words --machine_rank $1" </dev/null; }

for ((rank = ${#hosts[@]} - 1; rank > 0; rank--)); do
    start "$rank" >"$LOGS/machine-$rank.log" 2>&1 &
done
start 0
