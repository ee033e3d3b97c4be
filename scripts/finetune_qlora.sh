#!/usr/bin/env bash
# Stage 2 of LLaVA v1 with QLoRA: LoRA on a language model that is frozen in 4 bits (docs/lora.md).
# Needs NVIDIA GPUs and bitsandbytes: pip install -e ".[quant]". Each process holds the whole model.
#
# The variables and flags are those of finetune.sh beside this file, and of scripts/launch.sh.
set -euo pipefail
export OUTPUT=${OUTPUT:-./checkpoints/llava-vicuna-7b-v1.3-finetune_qlora}
exec "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" --lora_enable True --bits 4 --fsdp False "$@"
