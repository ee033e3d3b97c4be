#!/usr/bin/env bash
# Runs a recipe on several machines. Start it on each of them, with its number and the address of machine 0:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 scripts/multinode_torchrun.sh scripts/finetune.sh [FLAGS]
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 scripts/multinode_torchrun.sh scripts/finetune.sh [FLAGS]
#
# All machines need the same code, the same number of GPUs, and a folder for the results that they share. The batch
# grows with the machines; to keep it, divide --per_device_train_batch_size or --gradient_accumulation_steps.
set -euo pipefail
: "${NNODES:?the number of machines}" "${NODE_RANK:?the number of this machine, from 0}"
: "${MASTER_ADDR:?the name or address of machine 0}"
export NNODES NODE_RANK MASTER_ADDR
exec bash "$@"
