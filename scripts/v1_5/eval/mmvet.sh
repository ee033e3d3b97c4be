#!/usr/bin/env bash
# Answers MM-Vet, then converts the answers for its judge.
# Usage: see common.sh, or run with --help.
. "$(dirname "$0")/common.sh"
here=$data/mm-vet
answer model_vqa "$here/llava-mm-vet.jsonl" "$here/answers/$ckpt.jsonl" --image-folder "$here/images"
"$python" scripts/convert_mmvet_for_eval.py --src "$here/answers/$ckpt.jsonl" --dst "$here/results/$ckpt.json"
