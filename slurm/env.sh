# The one file a site edits. Jobs read it on their first node, slurm/pipeline.sh and `python -m clinrep.slurm` where
# you call them. For a plain sbatch read it in your shell too, so that sbatch sees section 1: source slurm/env.sh
# What is set here becomes flags of the stages; Python reads none of it from the environment.
# shellcheck shell=bash disable=SC1091,SC2034

# 1. The queue. sbatch itself reads these; its own flags (--partition, --account) win over them, and they win over
#    the #SBATCH lines. Others of the kind: SBATCH_QOS, SBATCH_CONSTRAINT, SBATCH_EXCLUSIVE (man sbatch).
# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my-account
STAGE_SBATCH=()                               # flags for single stages in slurm/pipeline.sh, in pairs of stage and flag:
                                              # (00_tokenize --partition=cpu 04_analyze --partition=cpu)

# 2. Python: keep one of the three.
IN_IMAGE=()                                   # put before python
source .venv/bin/activate                     # a. the .venv that `make setup` makes
# module load python/3.11 cuda; source /path/to/venv/bin/activate                 # b. a module and your venv
# IN_IMAGE=(apptainer exec --nv --bind "$PWD" --pwd "$PWD" /path/to/clinrep.sif)  # c. an image

# 3. Data, runs and settings. Absolute paths, or relative to the checkout; every node must see them.
CLIF_DIR=sample_data/clif_demo                # the folder of your CLIF tables
RUN_DIR=runs/main                             # each stage writes RUN_DIR/<stage>
SITE=main                                     # what stage 04 calls this site in tables and figures
OTHER_SITES=()                                # more sites in stage 04's report, as NAME=RUN_DIR: (ucmc=runs/ucmc); their
                                              # stages run with RUN_DIR and CLIF_DIR above set to theirs
CONFIG_DIR=configs/ehr                        # the folder of <stage>.yaml; configs/ehr/demo for the sample data
OUTCOMES=(in_hospital_death long_length_of_stay icu_admission imv_event)   # of stage 02's array, in this order;
                                              # with more or fewer change --array in slurm/02_finetune.sbatch too

# 4. How jobs behave.
PROCESSES_PER_NODE=                           # empty: one a GPU of the job, or one where it has none
THREADS_PER_PROCESS=                          # empty: the job's CPUs are shared out over its processes
MAX_REQUEUES=10                               # a run stopped before its time limit is queued again this often
# export NCCL_SOCKET_IFNAME=ib0               # several nodes: the network between them, if NCCL picks a wrong one

[[ $- == *i* ]] || source slurm/launch.sh     # not into the shell you type in
