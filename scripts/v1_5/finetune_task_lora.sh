#!/usr/bin/env bash
# Trains LLaVA v1.5 on data of your own with LoRA: from the finished model
# (docs/lora.md).
#
# Set the variables below in the environment, or edit them; flags are passed on and override those of the recipe.
# scripts/launch.sh lists the variables of the launch: GPUS, DEEPSPEED, LAUNCHER, and those of several machines.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

MODEL=${MODEL:-liuhaotian/llava-v1.5-13b}
DATA=${DATA:-./playground/data/llava_v1_5_mix665k.json}
IMAGES=${IMAGES:-./playground/data}
VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14-336}
OUTPUT=${OUTPUT:-./checkpoints/llava-v1.5-13b-task-lora}

launch_sharded \
    --model_name_or_path "$MODEL" \
    --data_path "$DATA" --image_folder "$IMAGES" \
    --version v1 \
    --lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 \
    --mm_projector_type mlp2x_gelu \
    --vision_tower "$VISION_TOWER" --mm_vision_select_layer -2 \
    --mm_use_im_start_end False --mm_use_im_patch_token False \
    --image_aspect_ratio pad --group_by_modality_length True \
    --output_dir "$OUTPUT" \
    --num_train_epochs 1 --per_device_train_batch_size 16 --gradient_accumulation_steps 1 \
    --bf16 True --tf32 True \
    --save_strategy steps --save_total_limit 1 --save_steps 50000 \
    --learning_rate 2e-4 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine \
    --logging_steps 1 --report_to wandb \
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 \
    "$@"
