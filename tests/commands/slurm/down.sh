#!/usr/bin/env bash
# End the jobs and the daemons that up.sh has started in this folder, and nothing else. usage: down.sh FOLDER
folder=$1
export SLURM_CONF=$folder/slurm.conf
scancel --user="$(id -un)"
for _ in $(seq 60); do
  [ -z "$(squeue --noheader)" ] && break
  sleep 0.5
done
for pid_file in "$folder"/{slurmd.pid,slurmctld.pid,munge/pid}; do
  [ -s "$pid_file" ] || continue
  pid=$(cat "$pid_file")
  kill "$pid"
  for _ in $(seq 40); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.25
  done
done
