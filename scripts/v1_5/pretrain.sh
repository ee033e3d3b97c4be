#!/usr/bin/env bash
# Stage 1 of LLaVA v1.5: trains a two-layer projector on 558 thousand captioned images, on 8 GPUs.
# The original took 5.5 hours for 13B on 8 A100 of 80 GB, and 3.5 hours for 7B.
#
# Set the variables below in the environment, or edit them; flags are passed on and override those of the recipe.
# scripts/launch.sh lists the variables of the launch: GPUS, DEEPSPEED, LAUNCHER, and those of several machines.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

MODEL=${MODEL:-lmsys/vicuna-13b-v1.5}
DATA=${DATA:-./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json}
IMAGES=${IMAGES:-./playground/data/LLaVA-Pretrain/images}
VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14-336}
OUTPUT=${OUTPUT:-./checkpoints/llava-v1.5-13b-pretrain}

launch \
    --model_name_or_path "$MODEL" \
    --data_path "$DATA" --image_folder "$IMAGES" \
    --version plain --tune_mm_mlp_adapter True \
    --mm_projector_type mlp2x_gelu \
    --vision_tower "$VISION_TOWER" --mm_vision_select_layer -2 \
    --mm_use_im_start_end False --mm_use_im_patch_token False \
    --output_dir "$OUTPUT" \
    --num_train_epochs 1 --per_device_train_batch_size 32 --gradient_accumulation_steps 1 \
    --bf16 True --tf32 True \
    --save_strategy steps --save_total_limit 1 --save_steps 24000 \
    --learning_rate 1e-3 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine \
    --logging_steps 1 --report_to wandb \
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 \
    "$@"
