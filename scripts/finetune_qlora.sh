#!/usr/bin/env bash
# Stage 2 of LLaVA v1 with QLoRA: LoRA on a language model that is frozen in 4 bits (docs/lora.md).
# Needs NVIDIA GPUs and bitsandbytes: pip install -e ".[quant]".
#
# Set the variables below in the environment, or edit them; flags are passed on and override those of the recipe.
# scripts/launch.sh lists the variables of the launch: GPUS, DEEPSPEED, LAUNCHER, and those of several machines.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

MODEL=${MODEL:-lmsys/vicuna-7b-v1.3}
PROJECTOR=${PROJECTOR:-./checkpoints/llava-vicuna-7b-v1.3-pretrain/mm_projector.bin}
DATA=${DATA:-./playground/data/llava_instruct_80k.json}
IMAGES=${IMAGES:-/path/to/coco/train2017}
VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14}
OUTPUT=${OUTPUT:-./checkpoints/llava-vicuna-7b-v1.3-finetune_qlora}

launch \
    --model_name_or_path "$MODEL" \
    --data_path "$DATA" --image_folder "$IMAGES" \
    --version v1 --pretrain_mm_mlp_adapter "$PROJECTOR" \
    --vision_tower "$VISION_TOWER" --mm_vision_select_layer -2 \
    --mm_use_im_start_end False --mm_use_im_patch_token False \
    --lora_enable True --bits 4 \
    --output_dir "$OUTPUT" \
    --num_train_epochs 1 --per_device_train_batch_size 16 --gradient_accumulation_steps 1 \
    --bf16 True --tf32 True \
    --save_strategy steps --save_total_limit 1 --save_steps 50000 \
    --learning_rate 2e-5 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine \
    --logging_steps 1 --report_to wandb \
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 \
    "$@"
