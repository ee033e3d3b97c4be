#!/usr/bin/env bash
# Answers TextVQA, then computes the accuracy.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/textvqa
answer model_vqa_loader "$here/llava_textvqa_val_v051_ocr.jsonl" "$here/answers/$ckpt.jsonl" \
    --image-folder "$here/train_images"
"$python" -m llava.eval.eval_textvqa --annotation-file "$here/TextVQA_0.5.1_val.json" \
    --result-file "$here/answers/$ckpt.jsonl" --output "$here/scores/$ckpt.json"
