#!/usr/bin/env bash
# Answers VQAv2, then writes a submission. SPLIT: llava_vqav2_mscoco_test-dev2015.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/vqav2
split=${SPLIT:-llava_vqav2_mscoco_test-dev2015}
answer model_vqa_loader "$here/$split.jsonl" "$here/answers/$split/$ckpt/merge.jsonl" --image-folder "$here/test2015"
"$python" scripts/convert_vqav2_for_submission.py --dir "$here" --split "$split" --ckpt "$ckpt"
