#!/usr/bin/env bash
# Stage 2 of LLaVA v1.5 with LoRA: the language model is frozen, matrices beside its layers are trained (docs/lora.md).
#
# The variables and flags are those of finetune.sh beside this file, and of scripts/launch.sh.
set -euo pipefail
export OUTPUT=${OUTPUT:-./checkpoints/llava-v1.5-13b-lora}
exec "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" \
    --lora_enable True --lora_r 128 --lora_alpha 256 --learning_rate 2e-4 --mm_projector_lr 2e-5 "$@"
