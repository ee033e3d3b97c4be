#!/usr/bin/env bash
# Answers LLaVA-Bench (in the Wild), then has a judge review the answers. JUDGE names the judge.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/llava-bench-in-the-wild
answer model_vqa "$here/questions.jsonl" "$here/answers/$ckpt.jsonl" --image-folder "$here/images"
"$python" llava/eval/eval_gpt_review_bench.py --judge-model "${JUDGE:?names the judge, such as a snapshot of a GPT}" \
    --question "$here/questions.jsonl" --context "$here/context.jsonl" --rule llava/eval/table/rule.json \
    --answer-list "$here/answers_gpt4.jsonl" "$here/answers/$ckpt.jsonl" --output "$here/reviews/$ckpt.jsonl"
"$python" llava/eval/summarize_gpt_review.py -f "$here/reviews/$ckpt.jsonl"
