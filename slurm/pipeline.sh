#!/bin/bash
# Submit the stages as a chain of jobs in which each waits until those before it succeeded:
#   00_tokenize -> 01_pretrain -> 02_finetune (array), 03_extract_reps -> 04_analyze
#
#   slurm/pipeline.sh                                   all five, with the settings of slurm/env.sh
#   slurm/pipeline.sh --from 02_finetune                from there on; what came before must be finished
#   slurm/pipeline.sh --from 02_finetune --after 1234   ... or be made by job 1234 (several: 1234:1235)
#   slurm/pipeline.sh --to 01_pretrain                  only up to there
#   slurm/pipeline.sh --sbatch 01_pretrain --nodes=4    a flag of sbatch for one stage; may be repeated
#   slurm/pipeline.sh --flag 01_pretrain --seed=7       a flag of one stage's script; may be repeated
#   slurm/pipeline.sh --dry_run                         check the settings and print what would be submitted
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
trap '[ "$?" -eq 2 ] || echo "slurm/pipeline.sh: error: slurm/env.sh failed" >&2; exit 2' EXIT
# shellcheck source=slurm/env.sh
source slurm/env.sh
trap - EXIT

STAGES=(00_tokenize 01_pretrain 02_finetune 03_extract_reps 04_analyze)
declare -A BEFORE=([01_pretrain]=00_tokenize [02_finetune]=01_pretrain [03_extract_reps]=01_pretrain
  [04_analyze]="02_finetune 03_extract_reps")
declare -A JOBS=()                    # stage -> job id
IDS=()                                # the same ids, in order
SBATCH_FLAGS=() STAGE_FLAGS=()        # in pairs: stage, flag
first=${STAGES[0]} last=${STAGES[-1]} after="" is_dry=""

main() {
  read_arguments "$@"
  [ -n "$is_dry" ] || command -v sbatch > /dev/null ||
    refuse "sbatch is not found here; call this where jobs are submitted, or try --dry_run"
  [ "$((${#STAGE_SBATCH[@]} % 2))" -eq 0 ] || refuse "STAGE_SBATCH in slurm/env.sh must have pairs of stage and flag"
  local chosen=() stage place
  for ((place = 0; place < ${#STAGE_SBATCH[@]}; place += 2)); do
    check_stage "${STAGE_SBATCH[place]}"
  done
  SBATCH_FLAGS=(02_finetune "--array=0-$((${#OUTCOMES[@]} - 1))" "${STAGE_SBATCH[@]}" "${SBATCH_FLAGS[@]}")
  for stage in "${STAGES[@]}"; do
    [[ $stage < $first || $stage > $last ]] || chosen+=("$stage")
  done
  [ "${#chosen[@]}" -gt 0 ] || refuse "--from $first comes after --to $last; give them in order"
  check_settings "${chosen[@]}"
  pin_site
  [ -z "$is_dry" ] || env | grep '^SBATCH_' || true
  trap 'cancel_all $?' EXIT
  for stage in "${chosen[@]}"; do
    submit "$stage"
  done
  trap - EXIT
  [ -n "$is_dry" ] || say_how_to_follow
}

read_arguments() {
  while [ "$#" -gt 0 ]; do
    case $1 in
      --from | --to | --after) [ "$#" -ge 2 ] || refuse "$1 needs a value" ;;
      --sbatch | --flag) [ "$#" -ge 3 ] || refuse "$1 needs two values: STAGE FLAG" ;;
    esac
    case $1 in
      --from) check_stage "$2" && first=$2 && shift 2 ;;
      --to) check_stage "$2" && last=$2 && shift 2 ;;
      --after) after=$2 && shift 2 ;;
      --sbatch) check_stage "$2" && SBATCH_FLAGS+=("$2" "$3") && shift 3 ;;
      --flag) check_stage "$2" && STAGE_FLAGS+=("$2" "$3") && shift 3 ;;
      --dry_run) is_dry=yes && shift ;;
      -h | --help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
      *) refuse "unknown word '$1'; see slurm/pipeline.sh --help" ;;
    esac
  done
  [[ $after =~ ^([0-9]+(:[0-9]+)*)?$ ]] ||
    refuse "--after '$after' is no job id; give a number, or several with : between"
}

check_stage() {
  local stage
  for stage in "${STAGES[@]}"; do
    [ "$stage" != "$1" ] || return 0
  done
  refuse "unknown stage '$1'; known: ${STAGES[*]}"
}

# check_settings STAGE...: refuse before anything is submitted what the stages would refuse when they start.
check_settings() {
  local stage task tasks is_pending=() commands
  [ -z "$after" ] || is_pending=(--is_pending)
  commands=$(mktemp)
  # shellcheck disable=SC2064 # the name as it is now
  trap "rm -f '$commands'" EXIT
  for stage in "$@"; do
    select_flags "$stage" "${STAGE_FLAGS[@]}"
    tasks=("")
    [ "$stage" != 02_finetune ] || tasks=("${!OUTCOMES[@]}")
    for task in "${tasks[@]}"; do
      SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=${#tasks[@]} SLURM_SUBMIT_DIR=$PWD PRINT_COMMAND=$commands \
        bash "slurm/$stage.sbatch" "${flags[@]}" >&2
    done
  done
  "${IN_IMAGE[@]}" python -m clinrep.slurm check "${is_pending[@]}" < "$commands"
  rm -f "$commands"
}

# submit STAGE: after those before it; a job whose dependency failed is cancelled instead of waiting for ever.
submit() {
  local stage=$1 before ids=$after command
  for before in ${BEFORE[$stage]:-}; do
    [ -z "${JOBS[$before]:-}" ] || ids+="${ids:+:}${JOBS[$before]}"
  done
  command=(sbatch --parsable)
  [ -z "$ids" ] || command+=("--dependency=afterok:$ids" --kill-on-invalid-dep=yes)
  select_flags "$stage" "${SBATCH_FLAGS[@]}"
  command+=("${flags[@]}" "slurm/$stage.sbatch")
  select_flags "$stage" "${STAGE_FLAGS[@]}"
  command+=("${flags[@]}")
  if [ -n "$is_dry" ]; then
    JOBS[$stage]=ID_OF_$stage
    printf '%q ' "${command[@]}" | sed 's/ $/\n/'
  else
    JOBS[$stage]=$("${command[@]}")
    JOBS[$stage]=${JOBS[$stage]%%;*}   # of several clusters: id;cluster
    IDS+=("${JOBS[$stage]}")
    printf '%-16s job %-10s %s\n' "$stage" "${JOBS[$stage]}" "${ids:+after ${ids//:/, }}"
  fi
}

# select_flags STAGE [STAGE FLAG]...: set `flags` to those of one stage.
select_flags() {
  local stage=$1
  shift
  flags=()
  while [ "$#" -gt 0 ]; do
    [ "$1" != "$stage" ] || flags+=("$2")
    shift 2
  done
}

say_how_to_follow() {
  local ids task=""
  [ "$first" != 02_finetune ] || task=_0
  ids=$(IFS=, && echo "${IDS[*]}")
  cat << END

queue    squeue --jobs=$ids
log      tail -F slurm/logs/$first-${JOBS[$first]}$task.out
after    sacct --jobs=$ids --format=JobID,JobName,State,ExitCode,Elapsed
stop     scancel ${ids//,/ }
results  $RUN_DIR/
END
}

# cancel_all STATUS: an incomplete chain is of no use.
cancel_all() {
  [ "${#IDS[@]}" -eq 0 ] || scancel "${IDS[@]}" || true
  echo "slurm/pipeline.sh: error: not submitted; cancelled what had been: ${IDS[*]:-nothing}" >&2
  exit "$1"
}

main "$@"
