#!/usr/bin/env bash
# Answers POPE, then computes the figures by category.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/pope
answer model_vqa_loader "$here/llava_pope_test.jsonl" "$here/answers/$ckpt.jsonl" --image-folder "$here/val2014"
"$python" -m llava.eval.eval_pope --annotation-dir "$here/coco" --question-file "$here/llava_pope_test.jsonl" \
    --result-file "$here/answers/$ckpt.jsonl" --output "$here/scores/$ckpt.json"
