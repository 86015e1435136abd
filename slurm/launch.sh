# How the sbatch files start a stage. Sites edit env.sh, not this. `bash slurm/<stage>.sbatch` outside of a Slurm job
# runs the stage here; with PRINT_COMMAND=FILE it only appends the command to that file, for clinrep/slurm.
# shellcheck shell=bash

# env.sh is read when a job starts, which may be days after it was submitted: what slurm/pipeline.sh and clinrep/slurm
# checked then wins over what it says by now, as for the next site.
CLIF_DIR=${PIN_CLIF_DIR-$CLIF_DIR} RUN_DIR=${PIN_RUN_DIR-$RUN_DIR} SITE=${PIN_SITE-$SITE}
CONFIG_DIR=${PIN_CONFIG_DIR-$CONFIG_DIR}
[ -z "${PIN_OTHER_SITES+set}" ] || IFS=: read -r -a OTHER_SITES <<< "$PIN_OTHER_SITES"
[ -z "${PIN_OUTCOMES:-}" ] || read -r -a OUTCOMES <<< "$PIN_OUTCOMES"

# pin_site: export what jobs submitted now are to use whenever they start.
pin_site() {
  export PIN_CLIF_DIR=$CLIF_DIR PIN_RUN_DIR=$RUN_DIR PIN_SITE=$SITE PIN_CONFIG_DIR=$CONFIG_DIR
  export PIN_OUTCOMES="${OUTCOMES[*]}" PIN_OTHER_SITES
  PIN_OTHER_SITES=$(IFS=: && echo "${OTHER_SITES[*]}")
}

# launch SCRIPT ARGS...: one process, on the job's first node.
launch() {
  start 1 1 "$@"
}

# launch_on_gpus SCRIPT ARGS...: PROCESSES_PER_NODE processes on every node of the job.
launch_on_gpus() {
  start "${SLURM_JOB_NUM_NODES:-1}" "$(count_processes)" "$@"
}

# start NODES PROCESSES SCRIPT ARGS...: the launch line of every stage.
start() {
  local nodes=$1 processes=$2
  shift 2
  if [ -n "${PRINT_COMMAND:-}" ]; then
    print_command "$@"
    return
  fi
  local cpus=${SLURM_CPUS_PER_TASK:-}
  set_threads "$processes"
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    start_in_job "$nodes" "$processes" "$(share_out "${cpus:-1}" "$processes")" "$@"
  elif [ "$processes" -eq 1 ]; then
    exec "${IN_IMAGE[@]}" python "$@"
  else
    start_ranks_here "$processes" "$@"
  fi
}

# start_ranks_here PROCESSES SCRIPT ARGS...: outside of Slurm, by torchrun; the ranks get time to save after a signal.
start_ranks_here() {
  local processes=$1 flags=() help
  shift
  help=$("${IN_IMAGE[@]}" torchrun --help 2>&1) || true
  if [[ $help == *--signals-to-handle* ]]; then   # since torch 2.13
    flags=("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1" --shutdown-timeout=240)
  fi
  exec "${IN_IMAGE[@]}" torchrun --standalone --nproc_per_node="$processes" "${flags[@]}" "$@"
}

# set_threads PROCESSES: let every process use its share of the job's CPUs, or of the machine's outside of Slurm.
set_threads() {
  local cores threads
  cores=$(getconf _NPROCESSORS_ONLN)
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ] && [ "$SLURM_CPUS_PER_TASK" -lt "$cores" ]; then cores=$SLURM_CPUS_PER_TASK; fi
  threads=$(share_out "$cores" "$1")
  [ -n "${SLURM_JOB_ID:-}" ] || threads=${OMP_NUM_THREADS:-$threads}   # into a job it may have come from a login shell
  export OMP_NUM_THREADS=${THREADS_PER_PROCESS:-$threads}
  export POLARS_MAX_THREADS=$OMP_NUM_THREADS
}

# start_in_job NODES PROCESSES CPUS SCRIPT ARGS...: every process is a task of srun, so that each gets Slurm's
# signals itself: with cgroups Slurm signals the tasks alone, not what they have started (such as torchrun's ranks).
start_in_job() {
  local nodes=$1 processes=$2 cpus=$3 labels=()
  shift 3
  export MASTER_ADDR=localhost MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
  [ "$nodes" -eq 1 ] || MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  [ "$((nodes * processes))" -eq 1 ] || labels=(--label)   # each line of the log begins with its rank
  # Not --kill-on-bad-exit: it would hide the exit code of the first task by those it kills. A task that ends alone, as
  # by a crash, leaves the others waiting for it: they have a minute.
  # srun has not taken --cpus-per-task over from sbatch since Slurm 22.05; newer ones pass it on by another name,
  # which must not contradict the share of one of several processes.
  unset SLURM_TRES_PER_TASK
  export SLURM_EXPORT_ENV=ALL   # where sbatch was told --export=NONE, srun would drop what env.sh has set
  run_and_requeue srun --nodes="$nodes" --ntasks="$((nodes * processes))" --ntasks-per-node="$processes" \
    --cpus-per-task="$cpus" --mpi=none --kill-on-bad-exit=0 --wait=60 --unbuffered "${labels[@]}" \
    "${IN_IMAGE[@]}" python "$@"
}

# run_and_requeue COMMAND...: run it; when this very run was stopped by USR1 after saving, queue the
# job again. A launcher may hide exit code 75, so the file STOPPED decides. After TERM (scancel,
# preemption) nothing is queued here: that is for Slurm to decide.
run_and_requeue() {
  local output_dir before after status=0
  [ ! -f /dev/stdout ] || chmod o= /dev/stdout || true   # the log is for owner and group, as what the stage writes
  output_dir=$(find_output_dir "$@")
  before=$(stat -c '%i %y' "$output_dir/STOPPED" 2>/dev/null) || true
  printf 'slurm: job %s on %s, start %d:' "$SLURM_JOB_ID" "$SLURM_JOB_NODELIST" "$((${SLURM_RESTART_COUNT:-0} + 1))"
  printf ' %q' "$@"
  printf '\n'
  trap : TERM   # outlive the TERM that Slurm also sends to this shell, to say how the stage ended
  "$@" || status=$?
  if [ "$status" -eq 0 ]; then return 0; fi
  after=$(stat -c '%i %y' "$output_dir/STOPPED" 2>/dev/null) || true
  if [ -z "$after" ] || [ "$after" = "$before" ]; then
    echo "slurm: failed with exit code $status"
    ! is_preempted || wait_for_slurm
  elif grep -q USR1 "$output_dir/STOPPED" && [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_REQUEUES" ] &&
    scontrol requeue "$(name_job)"; then
    echo "slurm: stopped after saving; queued again"
    wait_for_slurm
  elif is_preempted; then
    echo "slurm: stopped after saving; Slurm takes the nodes away and decides what becomes of this job"
    wait_for_slurm
  elif grep -q USR1 "$output_dir/STOPPED" && [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_REQUEUES" ]; then
    echo "slurm: stopped after saving, but queued again $MAX_REQUEUES times already (MAX_REQUEUES in slurm/env.sh);" \
      "submit the same to continue"
  else
    echo "slurm: stopped after saving; not queued again: submit the same to continue"
  fi
  return "$status"
}

# is_preempted: whether Slurm is about to take this job's nodes away.
is_preempted() {
  scontrol show job --oneliner "$(name_job)" | grep -q 'PreemptTime=[0-9]'
}

# wait_for_slurm: wait until Slurm ends this job. One that ended by itself in the grace time of a preemption would
# count as failed, and not be queued again.
wait_for_slurm() {
  sleep infinity &
  wait "$!" || true   # the trap of TERM ends it
  kill "$!" 2>/dev/null || true
}

# name_job: print what scontrol calls this job. The last task of an array has the array's own id: name the task, or
# all of them are meant.
name_job() {
  local task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  echo "${REQUEUE_ID:-${task:-$SLURM_JOB_ID}}"
}

# count_processes: print how many processes a node gets.
count_processes() {
  local gpus
  if [ -n "$PROCESSES_PER_NODE" ]; then
    gpus=$PROCESSES_PER_NODE
  elif [ -n "${SLURM_JOB_ID:-}" ]; then
    gpus=${SLURM_GPUS_ON_NODE:-1}
  elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    gpus=$(tr , '\n' <<< "$CUDA_VISIBLE_DEVICES" | grep -c .) || true
  else
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || true
  fi
  echo "$((gpus > 0 ? gpus : 1))"
}

# share_out TOTAL PARTS: print the whole number each part gets, at least 1.
share_out() {
  echo "$(($1 > $2 ? $1 / $2 : 1))"
}

# print_command SCRIPT ARGS...: append to the file PRINT_COMMAND their number and each of them, then the same of the
# variables that jobs are to see: what env.sh tells sbatch, and the pins.
print_command() {
  local variables
  pin_site
  mapfile -d '' variables < <(env --null | grep --null-data '^SBATCH_\|^PIN_')
  printf '%s\0' "$#" "$@" "${#variables[@]}" "${variables[@]}" >> "$PRINT_COMMAND"
}

# choose_outcome ARGS...: set `outcome` to what --outcome says, else to the one at this task's place in OUTCOMES.
choose_outcome() {
  local task=${SLURM_ARRAY_TASK_ID:-} count=${SLURM_ARRAY_TASK_COUNT:-1}
  outcome=$(find_flag outcome "$@")
  if [ -n "$outcome" ]; then
    [ "$count" -eq 1 ] ||
      refuse "--outcome $outcome is one run, but this is an array of $count; submit it with --array=0"
    return
  fi
  # The file's own --array=0-3 is right for four outcomes only.
  [ "$count:${SLURM_ARRAY_TASK_MAX:-}" != 4:3 ] || [ "${#OUTCOMES[@]}" -eq 4 ] ||
    refuse "OUTCOMES in slurm/env.sh has ${#OUTCOMES[@]} names; submit with --array=0-$((${#OUTCOMES[@]} - 1))"
  outcome=${task:+${OUTCOMES[$task]:-}}
  [ -n "$outcome" ] || refuse "no outcome for array task '$task'; submit an array within 0-$((${#OUTCOMES[@]} - 1))" \
    "(OUTCOMES in slurm/env.sh: ${OUTCOMES[*]}), or give --outcome NAME"
}

# list_other_sites: set `other_sites` to the flags of stage 04 for OTHER_SITES.
list_other_sites() {
  local entry site run_dir
  other_sites=()
  for entry in "${OTHER_SITES[@]}"; do
    site=${entry%%=*} run_dir=${entry#*=}
    other_sites+=("--timelines_dir.$site" "$run_dir/00_tokenize" "--representations_dir.$site" "$run_dir/03_extract_reps"
      "--predictions_dir.$site" "$run_dir/02_finetune")
  done
}

# refuse WORDS...: end with one message.
refuse() {
  echo "$(basename "$0"): error: $*" >&2
  exit 2
}

# check_site: refuse values of env.sh that would be noticed too late, or never.
check_site() {
  local name
  for name in CLIF_DIR RUN_DIR SITE CONFIG_DIR OUTCOMES; do
    [ -n "${!name:-}" ] || refuse "$name is empty or missing in slurm/env.sh; give it a value"
  done
  for name in "${OTHER_SITES[@]}"; do
    [[ $name =~ ^[A-Za-z0-9_-]+=[^:]+$ ]] ||
      refuse "OTHER_SITES in slurm/env.sh holds '$name'; write NAME=RUN_DIR, as ucmc=runs/ucmc, without a colon"
  done
  for name in MAX_REQUEUES PROCESSES_PER_NODE THREADS_PER_PROCESS; do
    [[ ${!name:-} =~ ^[0-9]*$ ]] || refuse "$name is '${!name}' in slurm/env.sh; give a whole number"
  done
  [ -n "${MAX_REQUEUES:-}" ] || refuse "MAX_REQUEUES is empty or missing in slurm/env.sh; give a whole number"
}

# find_output_dir COMMAND...: print where the run writes STOPPED: the --output_dir that counts, the last
# one, or the folder in it that a worker of a search (--search.worker N) has for itself.
find_output_dir() {
  local output_dir worker
  output_dir=$(find_flag output_dir "$@")
  worker=$(find_flag search.worker "$@")
  printf '%s\n' "$output_dir${worker:+/workers/worker-$worker}"
}

# find_flag NAME ARGS...: print the last value of --NAME, nothing where it is not given.
find_flag() {
  local name=--$1 value="" is_next="" word
  shift
  for word in "$@"; do
    if [ -n "$is_next" ]; then
      value=$word is_next=""
    elif [ "$word" = "$name" ]; then
      is_next=yes
    elif [[ $word == "$name="* ]]; then
      value=${word#"$name="}
    fi
  done
  printf '%s\n' "$value"
}

check_site
