#!/usr/bin/env bash
# Answers MME, then computes the scores of all subtasks.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/MME
answer model_vqa_loader "$here/llava_mme.jsonl" "$here/answers/$ckpt.jsonl" \
    --image-folder "$here/MME_Benchmark_release_version"
"$python" -m llava.eval.eval_mme --annotation-dir "$here/MME_Benchmark_release_version" \
    --result-file "$here/answers/$ckpt.jsonl" --answers-dir "$here/eval_tool/answers/$ckpt" \
    --output "$here/scores/$ckpt.json"
