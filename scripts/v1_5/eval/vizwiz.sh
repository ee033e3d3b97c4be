#!/usr/bin/env bash
# Answers VizWiz, then writes a submission.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/vizwiz
answer model_vqa_loader "$here/llava_test.jsonl" "$here/answers/$ckpt.jsonl" --image-folder "$here/test"
"$python" scripts/convert_vizwiz_for_submission.py --annotation-file "$here/llava_test.jsonl" \
    --result-file "$here/answers/$ckpt.jsonl" --result-upload-file "$here/answers_upload/$ckpt.json"
