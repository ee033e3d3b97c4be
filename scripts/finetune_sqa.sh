#!/usr/bin/env bash
# Stage 2 on ScienceQA, converted by scripts/convert_sqa_to_llava with --split train, on 8 GPUs.
# README.md prints the same command. The projector is that of scripts/pretrain_sqa.sh, as it stands or extracted.
#
# Set the variables below in the environment, or edit them; flags are passed on and override those of the recipe.
# scripts/launch.sh lists the variables of the launch: GPUS, DEEPSPEED, LAUNCHER, and those of several machines.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

MODEL=${MODEL:-/path/to/llama-vicuna-13b}
PROJECTOR=${PROJECTOR:-./checkpoints/llava-13b-pretrain-no_im_start_end_token/mm_projector.bin}
DATA=${DATA:-/path/to/scienceqa/llava_train_QCM-LEPA.json}
IMAGES=${IMAGES:-/path/to/scienceqa/images/train}
VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14}
OUTPUT=${OUTPUT:-./checkpoints/llava-13b-pretrain-no_im_start_end_token-finetune_scienceqa}

launch_sharded \
    --model_name_or_path "$MODEL" \
    --data_path "$DATA" --image_folder "$IMAGES" \
    --version v0 --pretrain_mm_mlp_adapter "$PROJECTOR" \
    --vision_tower "$VISION_TOWER" --mm_vision_select_layer -2 \
    --output_dir "$OUTPUT" \
    --num_train_epochs 12 --per_device_train_batch_size 4 --gradient_accumulation_steps 1 \
    --bf16 True --tf32 True \
    --save_strategy steps --save_total_limit 3 --save_steps 5000 \
    --learning_rate 2e-5 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine \
    --logging_steps 1 --report_to wandb \
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 \
    "$@"
