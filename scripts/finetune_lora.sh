#!/usr/bin/env bash
# Stage 2 of LLaVA v1 with LoRA: the language model is frozen, matrices beside its layers are trained (docs/lora.md).
#
# The variables and flags are those of finetune.sh beside this file, and of scripts/launch.sh.
set -euo pipefail
export OUTPUT=${OUTPUT:-./checkpoints/llava-vicuna-7b-v1.3-finetune_lora}
exec "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" --lora_enable True "$@"
