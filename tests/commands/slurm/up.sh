#!/usr/bin/env bash
# Start a SLURM of one node and its own munge, all of it in one folder: nothing of the system's own is read or written.
# As root on Debian or Ubuntu; the packages are installed where they are missing. usage: up.sh FOLDER
# Afterwards SLURM_CONF=FOLDER/slurm.conf is what makes sbatch, squeue and scontrol talk to it.
set -euo pipefail
folder=$1 host=$(hostname -s)
if ! type slurmctld slurmd sbatch munged >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1  # at run level 1 a package starts no service of its own
  apt-get update -q
  apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge
fi

mkdir -p "$folder"/{state,spool,munge}
chmod 755 "$folder" "$folder/munge"
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
slurmctld -c
slurmd
for _ in $(seq 60); do
  state=$(sinfo --noheader --format=%T 2>/dev/null || true)
  if [ "$state" = idle ]; then exit 0; fi
  sleep 0.5
done
echo "SLURM did not start: its node is '$state'"
tail -n 20 "$folder"/*.log "$folder/munge/log"
exit 1
