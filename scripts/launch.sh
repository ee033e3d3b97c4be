#!/usr/bin/env bash
# Starts a training command with one process for each GPU. The recipes in this folder read this file.
#
#   GPUS         Processes on this machine (default: the number of GPUs that nvidia-smi lists, or 1).
#   DEEPSPEED    A JSON file such as scripts/zero3.json: DeepSpeed shards the run, instead of FSDP.
#   LAUNCHER     torchrun, deepspeed or accelerate (default: torchrun).
#   MASTER_PORT  Port of the first process (default: 25001).
#
# On several machines, which share the folder of the results:
#
#   NNODES       Number of machines (default: 1).
#   NODE_RANK    Number of this one, from 0 (default: 0).
#   MASTER_ADDR  Name or address of machine 0 (default: this machine).

_gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || _gpus=1
GPUS=${GPUS:-$((_gpus > 0 ? _gpus : 1))}
NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} MASTER_PORT=${MASTER_PORT:-25001}

# launch FLAGS: each process holds the whole model. launch_sharded FLAGS: each holds a part of it.
launch_sharded() {
    if [ -z "${DEEPSPEED:-}" ] && [ "${LAUNCHER:-}" != accelerate ]; then
        set -- --fsdp "full_shard auto_wrap" "$@" # accelerate has it from its file, DeepSpeed from $DEEPSPEED
    fi
    launch "$@"
}

launch() {
    local program=llava/train/train_mem.py
    if [ -n "${DEEPSPEED:-}" ]; then set -- --deepspeed "$DEEPSPEED" "$@"; fi
    case ${LAUNCHER:-torchrun} in
        torchrun)
            exec torchrun --nnodes="$NNODES" --node_rank="$NODE_RANK" --nproc_per_node="$GPUS" \
                --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" "$program" "$@"
            ;;
        deepspeed)
            [ "$NNODES" = 1 ] || { echo "error: several machines need LAUNCHER=torchrun or accelerate" >&2; exit 2; }
            exec deepspeed --num_gpus="$GPUS" --master_port="$MASTER_PORT" "$program" "$@"
            ;;
        accelerate)
            exec accelerate launch --config_file "$(dirname "${BASH_SOURCE[0]}")/accelerate_fsdp2.yaml" \
                --num_machines "$NNODES" --machine_rank "$NODE_RANK" --num_processes "$((NNODES * GPUS))" \
                --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" "$program" "$@"
            ;;
        *) echo "error: LAUNCHER=$LAUNCHER: use torchrun, deepspeed or accelerate" >&2; exit 2 ;;
    esac
}
