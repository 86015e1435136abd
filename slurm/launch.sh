# How the sbatch files start a stage. Sites edit env.sh, not this.
# shellcheck shell=bash

# launch SCRIPT ARGS...: one process on the job's first node.
launch() {
  export POLARS_MAX_THREADS=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
  run_and_requeue "${IN_IMAGE[@]}" python "$@"
}

# launch_on_gpus SCRIPT ARGS...: torchrun on every node, PROCESSES_PER_NODE processes each.
launch_on_gpus() {
  local host=localhost MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
  if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  fi
  local threads=$((SLURM_CPUS_PER_TASK / PROCESSES_PER_NODE))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
  find_torchrun_flags
  # srun has not taken --cpus-per-task over from sbatch since Slurm 22.05.
  run_and_requeue srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    "${SHIELD[@]}" "${IN_IMAGE[@]}" torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="$PROCESSES_PER_NODE" \
    --rdzv_backend=c10d --rdzv_endpoint="$host:$MASTER_PORT" --rdzv_id="$SLURM_JOB_ID" \
    "${TORCHRUN_FLAGS[@]}" "$@"
}

# find_torchrun_flags: set TORCHRUN_FLAGS and SHIELD, so that USR1 (sent before the time limit)
# reaches the ranks. A torchrun that does not pass USR1 on would die of it and kill them: there it
# is ignored, and the ranks save on the TERM that comes at the limit.
find_torchrun_flags() {
  local help
  help=$("${IN_IMAGE[@]}" torchrun --help 2>&1) || true
  if [[ $help == *--signals-to-handle* ]]; then
    SHIELD=()
    TORCHRUN_FLAGS=("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1" --shutdown-timeout=240)
  else
    echo "slurm: this torchrun does not pass USR1 on; the run is saved on TERM and not queued again"
    SHIELD=(bash -c 'trap "" USR1; exec "$@"' bash)
    TORCHRUN_FLAGS=()
  fi
}

# run_and_requeue COMMAND...: run it; when this very run was stopped by USR1 after saving, queue the
# job again. torchrun hides exit code 75, so the file STOPPED decides. After TERM (scancel,
# preemption) nothing is queued here: that is for Slurm to decide.
run_and_requeue() {
  local output_dir before after status=0
  output_dir=$(find_output_dir "$@")
  before=$(stat -c '%i %y' "$output_dir/STOPPED" 2>/dev/null) || true
  printf 'slurm: job %s on %s, start %d:' "$SLURM_JOB_ID" "$SLURM_JOB_NODELIST" "$((${SLURM_RESTART_COUNT:-0} + 1))"
  printf ' %q' "$@"
  printf '\n'
  "$@" || status=$?
  if [ "$status" -eq 0 ]; then return 0; fi
  after=$(stat -c '%i %y' "$output_dir/STOPPED" 2>/dev/null) || true
  if [ -z "$after" ] || [ "$after" = "$before" ] || ! grep -q USR1 "$output_dir/STOPPED"; then
    echo "slurm: failed with exit code $status"
  elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_REQUEUES" ]; then
    echo "slurm: stopped after saving, but already queued again $MAX_REQUEUES times; submit it anew to continue"
  else
    echo "slurm: stopped after saving (a traceback of torchrun above only reports the signal); queued again"
    # The last task of an array has the array's own id: name the task, or all of them start again.
    local task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    scontrol requeue "${task:-$SLURM_JOB_ID}" || echo "slurm: could not queue again; submit it anew to continue"
  fi
  return "$status"
}

# find_output_dir COMMAND...: print where the run writes STOPPED: the --output_dir that counts, the last
# one, or the folder in it that a worker of a search (--search.worker N) has for itself.
find_output_dir() {
  local output_dir worker
  output_dir=$(find_flag output_dir "$@")
  worker=$(find_flag search.worker "$@")
  printf '%s\n' "$output_dir${worker:+/workers/worker-$worker}"
}

# find_flag NAME COMMAND...: print the last value of --NAME.
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
