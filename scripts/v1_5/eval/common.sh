# Sourced by the scripts in this folder, each of which answers one benchmark and scores or converts the answers.
#
# usage: bash scripts/v1_5/eval/NAME.sh [MODEL]
#
# MODEL is a model folder or hub id (default: $MODEL, else liuhaotian/llava-v1.5-13b). Environment variables:
#   DATA                  Folder of the benchmarks (default: ./playground/data/eval).
#   CKPT                  Name of the answer files (default: the last part of MODEL).
#   CONV_MODE             Prompt template (default: vicuna_v1).
#   CUDA_VISIBLE_DEVICES  GPUs; several run one process each.
#   PYTHON                Python interpreter (default: python).
# Run the same command again to resume an interrupted run.
set -euo pipefail

case ${1:-} in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
model=${1:-${MODEL:-liuhaotian/llava-v1.5-13b}}
ckpt=${CKPT:-$(basename "$model")}
data=${DATA:-./playground/data/eval}
python=${PYTHON:-python}
# The paths must still be valid after changing to the repository's root.
[[ ! -e $model ]] || model=$(realpath "$model")
[[ ! -e $data ]] || data=$(realpath "$data")
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# answer MODULE QUESTIONS ANSWERS FLAG...
answer() {
    local module=$1 questions=$2 answers=$3 gpus launch=()
    shift 3
    [[ -e $questions ]] || fail "$questions: no such file. DATA names the folder of the benchmarks; \
docs/benchmarks.md lists the files."
    mkdir -p "$(dirname "$answers")"
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
    ((${#gpus[@]} < 2)) || launch=(-m torch.distributed.run --standalone --nproc_per_node "${#gpus[@]}")
    "$python" ${launch[@]+"${launch[@]}"} -m "llava.eval.$module" --model-path "$model" --question-file "$questions" \
        --answers-file "$answers" --temperature 0 --conv-mode "${CONV_MODE:-vicuna_v1}" "$@"
}
