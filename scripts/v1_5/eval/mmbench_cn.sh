#!/usr/bin/env bash
# Answers MMBench in Chinese, then converts the answers into a workbook to submit. SPLIT: mmbench_dev_cn_20231003.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/mmbench_cn
split=${SPLIT:-mmbench_dev_cn_20231003}
answer model_vqa_mmbench "$here/$split.tsv" "$here/answers/$split/$ckpt.jsonl" --single-pred-prompt --lang cn
"$python" scripts/convert_mmbench_for_submission.py --annotation-file "$here/$split.tsv" \
    --result-dir "$here/answers/$split" --upload-dir "$here/answers_upload/$split" --experiment "$ckpt"
