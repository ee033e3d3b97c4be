#!/usr/bin/env bash
# Answers ScienceQA by letter, then computes the nine columns.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/scienceqa
answer model_vqa_science "$here/llava_test_CQM-A.json" "$here/answers/$ckpt.jsonl" \
    --image-folder "$here/images/test" --single-pred-prompt
"$python" llava/eval/eval_science_qa.py --base-dir "$here" --result-file "$here/answers/$ckpt.jsonl" \
    --output-file "$here/answers/${ckpt}_output.jsonl" --output-result "$here/answers/${ckpt}_result.json"
