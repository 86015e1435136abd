# The one file a site edits. Jobs read it on the node. Read it in your shell too, before
# sbatch, so that sbatch sees partition and account:  source slurm/env.sh
# What is set here becomes flags of the stages; Python reads none of it from the environment.
# shellcheck shell=bash disable=SC1091,SC2034

# 1. The queue. sbatch itself reads these; its own flags (--partition, --account) win.
# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my-account

# 2. Python: keep one of the three.
IN_IMAGE=()                                   # put before python and torchrun
source .venv/bin/activate                     # a. the .venv that `make setup` makes
# module load python/3.11 cuda && source /path/to/venv/bin/activate               # b. a module and your venv
# IN_IMAGE=(apptainer exec --nv --bind "$PWD" --pwd "$PWD" /path/to/clinrep.sif)  # c. an image

# 3. Data and runs. Absolute paths, or relative to the checkout; every node must see them.
CLIF_DIR=sample_data/clif_demo                # the folder of your CLIF tables
RUN_DIR=runs/main                             # each stage writes RUN_DIR/<stage>
SITE=main                                     # what stage 04 calls this site in tables and figures

# 4. How jobs behave.
PROCESSES_PER_NODE=${SLURM_GPUS_ON_NODE:-1}   # one process a GPU
MAX_REQUEUES=10                               # a run stopped before its time limit is queued again this often
# export NCCL_SOCKET_IFNAME=ib0               # several nodes: the network between them, if NCCL picks a wrong one

[ -z "${SLURM_JOB_ID:-}" ] || source slurm/launch.sh
