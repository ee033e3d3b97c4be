#!/usr/bin/env bash
# MME: answers, then scores of all subtasks.  Usage: see common.sh, or --help.
. "$(dirname "$0")/common.sh"
here=$data/MME
answer model_vqa_loader "$here/llava_mme.jsonl" "$here/answers/$ckpt.jsonl" \
    --image-folder "$here/MME_Benchmark_release_version"
"$python" -m llava.eval.eval_mme --annotation-dir "$here/MME_Benchmark_release_version" \
    --result-file "$here/answers/$ckpt.jsonl" --answers-dir "$here/eval_tool/answers/$ckpt" --output "$here/scores/$ckpt.json"
