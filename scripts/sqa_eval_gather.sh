#!/usr/bin/env bash
# Merges the answers of scripts/sqa_eval_batch.sh into one file and scores them.
#
# usage: scripts/sqa_eval_gather.sh --base-dir DIR [options]
#
#   --base-dir DIR        Folder of ScienceQA.
#   --split NAME          Split of ScienceQA (default: test).
#   --question-file FILE  Question file that was answered (default: DIR/llava_SPLIT_QCM-LEPA.json).
#   --answers PREFIX      Answers: reads PREFIX-chunk*.jsonl; writes PREFIX.jsonl, PREFIX_output.json and
#                         PREFIX_result.json (default: ./SPLIT_llava-13b).
#
# Nothing is written unless every question is answered exactly once. $PYTHON names the interpreter (default: python).
# Exit codes: 0 on success, 1 if answers are missing, duplicate or match no question (lists them), 2 for wrong usage.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
wrong_usage() { printf 'error: %s\n(%s --help lists the options)\n' "$*" "$0" >&2; exit 2; }

base_dir='' questions='' answers=''
split='test'
python=${PYTHON:-python}

while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --base-dir | --split | --question-file | --answers) (($# > 1)) || wrong_usage "$1 needs a value." ;;
        *) wrong_usage "unknown option $1." ;;
    esac
    case $1 in
        --base-dir) base_dir=$2 ;;
        --split) split=$2 ;;
        --question-file) questions=$2 ;;
        --answers) answers=$2 ;;
    esac
    shift 2
done

[[ -n $base_dir ]] || wrong_usage "--base-dir is missing."
questions=${questions:-$base_dir/llava_${split}_QCM-LEPA.json}
answers=${answers:-./${split}_llava-13b}

shopt -s nullglob
chunks=("$answers"-chunk*.jsonl)
((${#chunks[@]})) || fail "$answers-chunk*.jsonl: no such files. Run scripts/sqa_eval_batch.sh first," \
    "with the same --answers."

"$python" -m llava.eval.merge_answers --question-file "$questions" --answers-file "$answers.jsonl" "${chunks[@]}"
"$python" -m llava.eval.eval_science_qa \
    --base-dir "$base_dir" \
    --split "$split" \
    --result-file "$answers.jsonl" \
    --output-file "${answers}_output.json" \
    --output-result "${answers}_result.json"
