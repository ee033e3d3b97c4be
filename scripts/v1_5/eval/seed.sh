#!/usr/bin/env bash
# Answers SEED-Bench, then computes the accuracy and writes a submission.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/seed_bench
merged=$here/answers/$ckpt/merge.jsonl
answer model_vqa_loader "$here/llava-seed-bench.jsonl" "$merged" --image-folder "$here"
"$python" scripts/convert_seed_for_submission.py --annotation-file "$here/SEED-Bench.json" --result-file "$merged" \
    --result-upload-file "$here/answers_upload/$ckpt.jsonl" --output "$here/scores/$ckpt.json"
