#!/usr/bin/env bash
# Runs a recipe with `accelerate launch` and FSDP2, as scripts/accelerate_fsdp2.yaml says, in place of torchrun.
#
#   scripts/accelerate.sh scripts/finetune.sh [FLAGS]
#
# A configuration of your own (`accelerate config`) works too: accelerate launch llava/train/train_mem.py FLAGS
set -euo pipefail
export LAUNCHER=accelerate
exec bash "$@"
