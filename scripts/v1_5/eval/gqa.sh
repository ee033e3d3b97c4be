#!/usr/bin/env bash
# Answers GQA, converts the answers for its own evaluation, and computes the accuracy.
# SPLIT: llava_gqa_testdev_balanced.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/gqa
split=${SPLIT:-llava_gqa_testdev_balanced}
merged=$here/answers/$split/$ckpt/merge.jsonl
answer model_vqa_loader "$here/$split.jsonl" "$merged" --image-folder "$here/data/images"
"$python" scripts/convert_gqa_for_eval.py --src "$merged" --dst "$here/data/testdev_balanced_predictions.json"
"$python" -m llava.eval.eval_gqa --question-file "$here/data/questions1.2/testdev_balanced_questions.json" \
    --result-file "$merged" --output "$here/scores/$ckpt.json"
