#!/usr/bin/env bash
# Train one run on several machines over ssh, where there is no scheduler. They share the file system of the run.
#   HOSTFILE=hosts launch/ssh.sh RUN.yaml [--key value ...]
# Ctrl-C stops the run in order, with a checkpoint; the same command goes on from there. This one stays in the foreground;
# `sft launch RUN.yaml --on ssh`, with the machines in launch.ssh.hosts, goes on when you log out.
set -euo pipefail

# --- knobs
HOSTFILE="${HOSTFILE:-hosts}" # one machine a line, machine 0 first; # begins a comment
PORT="${PORT:-29500}"         # where they meet on machine 0
SSH="${SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=15}"
SFT="${SFT:-$(command -v sft || echo "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/sft")}"

mapfile -t hosts < <(sed -e 's/#.*//' -e 's/[[:space:]].*//' -e '/^$/d' "$HOSTFILE")
printf -v list '"%s",' "${hosts[@]}"
script="$("$SFT" launch "$@" --on ssh --nodes "${#hosts[@]}" --launch.ssh.hosts "[${list%,}]" \
    --launch.ssh.command "$SSH" --main_process_port "$PORT" --dry-run)"
exec bash -c "$script"
