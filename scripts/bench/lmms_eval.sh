#!/bin/sh
# Runs lmms-eval on the embedded model by three roads and prints the score of each: our entry point (the engine), our
# OpenAI-compatible server, and lmms-eval's own class `llava` on this package's public names. No network but for pip.
# Usage: scripts/bench/lmms_eval.sh [FOLDER]     (default: .cache/lmms_eval; a second run finds the environment there)
# Fails unless all three print a score. PYTHON names the interpreter, TASKS the tasks, ROADS some of: engine server class
set -eu
cd "$(dirname "$0")/../.."

folder=${1:-.cache/lmms_eval}
tasks=${TASKS:-llava_images}
roads=${ROADS:-engine server class}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python="$folder/venv/bin/python"
server=

say() { printf '[lmms-eval] %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
stop_server() { [ -z "$server" ] || kill "$server" 2>/dev/null || true; server=; }
trap stop_server EXIT
trap 'exit 130' INT TERM

# lmms-eval is installed without what it declares: that holds a torchvision which does not load beside a CPU build of
# torch, and much that only single tasks and models need. What its own command needs follows by name.
set_up() {
    [ -e "$folder/ready" ] && return
    say "making $folder/venv"
    "${PYTHON:-python3}" -m venv --clear "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
    "$python" -m pip install -q --disable-pip-version-check -c constraints.txt -e .
    "$python" -m pip install -q --disable-pip-version-check --no-deps lmms-eval==0.7.3
    "$python" -m pip install -q --disable-pip-version-check -c constraints.txt datasets evaluate jsonlines loguru \
        numexpr pytablewriter python-dotenv sacrebleu scikit-learn tenacity tqdm-multiprocess zstandard
    touch "$folder/ready"
}

evaluate() { # ROAD WORD...
    road=$1
    shift
    rm -rf "${folder:?}/$road"
    say "$road: lmms-eval eval $* --tasks $tasks"
    "$folder/venv/bin/lmms-eval" eval "$@" --tasks "$tasks" --include_path tests/data/lmms_eval \
        --log_samples --output_path "$folder/$road" >"$folder/$road.log" 2>&1 ||
        { tail -n 40 "$folder/$road.log" >&2; fail "$road: lmms-eval failed; its log is $folder/$road.log"; }
}

start_server() {
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$python" -m llava.serve.model_worker --no-register --host 127.0.0.1 --port "$port" >"$folder/worker.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        kill -0 "$server" 2>/dev/null || { tail -n 20 "$folder/worker.log" >&2; fail "the worker ended"; }
        "$python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health/ready', timeout=5)" \
            2>/dev/null && return
        sleep 1
    done
    fail "the worker is not ready after 300 s; its log is $folder/worker.log"
}

print_scores() { # ROAD
    "$python" - "$folder/$1" "$1" <<'END'
import glob, json, sys

folder, road = sys.argv[1:]
files = glob.glob(f"{folder}/**/*_results.json", recursive=True)
if not files:
    sys.exit(f"error: {road}: lmms-eval wrote no results below {folder}")
results = json.load(open(files[-1], encoding="utf-8"))["results"]
scores = {
    f"{task} {name.split(',')[0]}": value
    for task, figures in results.items()
    for name, value in figures.items()
    if isinstance(value, float) and "stderr" not in name
}
if not scores:
    sys.exit(f"error: {road}: no score in {files[-1]}")
for name, value in scores.items():
    print(f"SCORE {road:<7} {name} {value:.4f}")
END
}

set_up
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$folder/hf" TOKENIZERS_PARALLELISM=false
for road in $roads; do
    case $road in
        engine) evaluate engine --model llava_engine --model_args pretrained=tiny ;;
        server)
            start_server
            evaluate server --model openai \
                --model_args "model_version=tiny,base_url=http://127.0.0.1:$port/v1,api_key=none,timeout=120"
            stop_server
            ;;
        class)
            evaluate class --model llava --device cpu \
                --model_args pretrained=llava/pocket/tiny,device_map=auto,conv_template=v0_train
            ;;
        *) fail "no such road: $road" ;;
    esac
done
for road in $roads; do print_scores "$road"; done
