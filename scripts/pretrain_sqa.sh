#!/usr/bin/env bash
# Stage 1 for ScienceQA: a projector without <im_start> and <im_end>, on 595 thousand captioned images, on 8 GPUs.
# README.md prints the same command.
#
# Set the variables below in the environment, or edit them; flags are passed on and override those of the recipe.
# scripts/launch.sh lists the variables of the launch: GPUS, DEEPSPEED, LAUNCHER, and those of several machines.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

MODEL=${MODEL:-./checkpoints/llama-vicuna-13b}
DATA=${DATA:-/path/to/cc3m_595k.json}
IMAGES=${IMAGES:-/path/to/cc3m_595k}
VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14}
OUTPUT=${OUTPUT:-./checkpoints/llava-13b-pretrain-no_im_start_end_token}

launch \
    --model_name_or_path "$MODEL" \
    --data_path "$DATA" --image_folder "$IMAGES" \
    --version v0 --tune_mm_mlp_adapter True \
    --vision_tower "$VISION_TOWER" --mm_vision_select_layer -2 \
    --output_dir "$OUTPUT" \
    --num_train_epochs 1 --per_device_train_batch_size 16 --gradient_accumulation_steps 1 \
    --bf16 True --tf32 True \
    --save_strategy steps --save_total_limit 1 --save_steps 2400 \
    --learning_rate 2e-3 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine \
    --logging_steps 1 --report_to wandb \
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 \
    "$@"
