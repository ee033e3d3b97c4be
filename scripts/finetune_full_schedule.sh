#!/usr/bin/env bash
# Stage 2 of LLaVA v1 on all 158 thousand instructions, three epochs, on 8 GPUs.
#
# The variables and flags are those of finetune.sh beside this file, and of scripts/launch.sh.
set -euo pipefail
export DATA=${DATA:-./playground/data/llava_instruct_158k.json}
export OUTPUT=${OUTPUT:-./checkpoints/llava-vicuna-7b-v1.3-finetune_full_schedule}
exec "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" --num_train_epochs 3 "$@"
