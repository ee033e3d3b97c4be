#!/usr/bin/env bash
# Answers a split of ScienceQA with several processes at once: one per GPU, or several on the CPU.
#
# usage: scripts/sqa_eval_batch.sh --base-dir DIR [options] [-- flags of the module]
#
#   --base-dir DIR        Folder of ScienceQA, converted by scripts/convert_sqa_to_llava.
#   --model-name MODEL    Model folder (default: ./checkpoints/LLaVA-13b-v0-science_qa).
#   --split NAME          Split of ScienceQA (default: test).
#   --question-file FILE  Question file (default: DIR/llava_SPLIT_QCM-LEPA.json).
#   --image-folder DIR    Folder of the images (default: DIR/images/SPLIT; minitest uses the images of test).
#   --answers PREFIX      Output files: process I writes PREFIX-chunkI.jsonl and the log PREFIX-chunkI.log
#                         (default: ./SPLIT_llava-13b).
#   --gpus LIST           GPUs, such as 0,1,3, or none for the CPU (default: $CUDA_VISIBLE_DEVICES, else all GPUs).
#   --processes N         Number of processes (default: one per GPU, or one on the CPU).
#   --module NAME         Python module that answers (default: llava.eval.model_vqa_science).
#
# Flags after `--` are passed to the module instead of `--answer-prompter --conv-mode simple`.
# $PYTHON names the interpreter (default: python). Run the same command again to resume an interrupted run. When all
# processes are done, scripts/sqa_eval_gather.sh merges their answers and scores them.
# Exit codes: 0 if every process succeeded, 1 if one failed (its chunk is named), 2 for wrong usage.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
wrong_usage() { printf 'error: %s\n(%s --help lists the options)\n' "$*" "$0" >&2; exit 2; }

model=./checkpoints/LLaVA-13b-v0-science_qa
split='test'
base_dir='' questions='' images='' answers='' processes=''
module=llava.eval.model_vqa_science
python=${PYTHON:-python}
gpu_list=all
module_flags=(--answer-prompter --conv-mode simple)

while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --) shift; module_flags=("$@"); break ;;
        --base-dir | --model-name | --split | --question-file | --image-folder | --answers | --gpus | --processes | \
            --module) (($# > 1)) || wrong_usage "$1 needs a value." ;;
        *) wrong_usage "unknown option $1." ;;
    esac
    case $1 in
        --base-dir) base_dir=$2 ;;
        --model-name) model=$2 ;;
        --split) split=$2 ;;
        --question-file) questions=$2 ;;
        --image-folder) images=$2 ;;
        --answers) answers=$2 ;;
        --gpus) gpu_list=$2 ;;
        --processes) processes=$2 ;;
        --module) module=$2 ;;
    esac
    shift 2
done

[[ -n $base_dir ]] || wrong_usage "--base-dir is missing."
questions=${questions:-$base_dir/llava_${split}_QCM-LEPA.json}
images=${images:-$base_dir/images/${split#mini}}
answers=${answers:-./${split}_llava-13b}
[[ -f $questions ]] || fail "$questions: no such file. Create it: python scripts/convert_sqa_to_llava" \
    "convert_to_llava --base-dir $base_dir --split $split"

visible_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        printf '%s' "$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader | tr '\n' ','
    fi
}

case $gpu_list in
    all) gpu_list=$(visible_gpus) || fail "nvidia-smi failed. Name the GPUs: --gpus 0,1 or --gpus none." ;;
    none) gpu_list='' ;;
esac
IFS=', ' read -r -a gpus <<<"$gpu_list" || true
processes=${processes:-$((${#gpus[@]} > 0 ? ${#gpus[@]} : 1))}
[[ $processes =~ ^[1-9][0-9]*$ ]] || wrong_usage "--processes $processes: must be at least 1."
if ((${#gpus[@]} == 0)); then
    # Processes that each use all cores would slow each other down.
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}
fi

mkdir -p "$(dirname "$answers")"
# Another number of processes divides the questions differently, so their answers cannot be resumed.
plan=$answers-chunks.txt
if [[ -s $plan && $(<"$plan") != "$processes" ]]; then
    fail "$answers-chunk*.jsonl were started with $(<"$plan") processes, but this run has $processes." \
        "Resume with --processes $(<"$plan"), or delete the files and $plan."
fi
printf '%s\n' "$processes" >"$plan"

pids=()
stop() {
    trap - INT TERM
    kill ${pids[@]+"${pids[@]}"} 2>/dev/null || true
    wait
    printf 'Stopped. Run the same command to continue.\n' >&2
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM

for ((chunk = 0; chunk < processes; chunk++)); do
    gpu=''
    place='the CPU'
    if ((${#gpus[@]})); then
        gpu=${gpus[chunk % ${#gpus[@]}]}
        place="GPU $gpu"
    fi
    printf 'chunk %d of %d on %s: %s\n' "$chunk" "$processes" "$place" "$answers-chunk$chunk.jsonl"
    CUDA_VISIBLE_DEVICES=$gpu "$python" -m "$module" \
        --model-name "$model" \
        --question-file "$questions" \
        --image-folder "$images" \
        --answers-file "$answers-chunk$chunk.jsonl" \
        --num-chunks "$processes" \
        --chunk-idx "$chunk" \
        ${module_flags[@]+"${module_flags[@]}"} >"$answers-chunk$chunk.log" 2>&1 &
    pids+=("$!")
done

failed=0
for ((chunk = 0; chunk < processes; chunk++)); do
    code=0
    wait "${pids[chunk]}" || code=$?
    if ((code)); then
        failed=$((failed + 1))
        log=$answers-chunk$chunk.log
        printf 'error: chunk %d of %d failed with exit code %d. The end of its log, %s:\n' \
            "$chunk" "$processes" "$code" "$log" >&2
        tail -n 3 "$log" | sed 's/^/    /' >&2
    fi
done
((failed == 0)) || fail "$failed of $processes chunks failed. Run the same command to answer the rest."
printf 'All %d chunks are done. Next:\n' "$processes"
printf '  scripts/sqa_eval_gather.sh --base-dir %q --split %q --question-file %q --answers %q\n' \
    "$base_dir" "$split" "$questions" "$answers"
