#!/usr/bin/env bash
# Two Ray nodes on this machine, behind a token, until Ctrl-C: to try a job on "two machines". docs/how-to/cluster.md
#
#     cluster/local.sh [CPUS]        CPUs of each node, 1 by default
set -euo pipefail
set -m  # each node in a process group of its own

cpus=${1:-1}
folder=$(mktemp -d /tmp/two-nodes-XXXX)  # Ray's sockets need a short path
export RAY_AUTH_MODE=token
export RAY_TMPDIR=$folder  # apart from any other Ray on this machine
export RAY_raylet_start_wait_time_s=120  # a busy machine needs more than Ray's 30
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # Ctrl-C ends both nodes at once, instead of waiting 30 s for their jobs
head=127.0.0.1:6390
jobs=127.0.0.1:8270

nodes=()
end() {
    trap - EXIT
    trap '' INT TERM HUP  # a second Ctrl-C would leave nodes and folder behind
    kill "${nodes[@]}" 2>/dev/null || true  # not `ray stop`: it would end every Ray on this machine
    wait "${nodes[@]}" 2>/dev/null || true
    for node in "${nodes[@]}"; do
        kill -KILL -- "-$node" 2>/dev/null || true  # what is left of its group, such as busy workers
    done
    for _ in {1..30}; do  # a job's driver has a group of its own, ends later and still writes files
        rm -rf "$folder" 2>/dev/null || true
        [[ -e $folder ]] || return
        sleep 1
    done
    echo "$folder could not be removed: something still writes there" >&2
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Written to ~/.ray/auth_token, readable by this user only, unless it exists.
token=$(umask 077; ray get-auth-token --generate 2>&1) || {
    echo "error: no token for Ray (${token##*$'\n'}): set HOME, or RAY_AUTH_TOKEN_PATH to a file that holds one" >&2
    exit 2
}
file=${RAY_AUTH_TOKEN_PATH:-${HOME:-}/.ray/auth_token}
if [[ -z ${RAY_AUTH_TOKEN:-} && -n $(find -L "$file" -perm /077 2>/dev/null) ]]; then
    echo "warning: $file is open to other users of this machine, who can run jobs as you: chmod 600 $file" >&2
fi

export RAY_idle_worker_killing_time_threshold_ms=60000  # otherwise Ray ends idle readers, which then import everything again
node() {  # name, agent's port, metrics' port, options of ray start
    : >"$folder/$1.log"
    ray start --block --node-ip-address=127.0.0.1 --num-cpus="$cpus" --object-store-memory=500000000 \
        --dashboard-agent-listen-port="$2" --metrics-export-port="$3" --disable-usage-stats "${@:4}" \
        >"$folder/$1.log" 2>&1 &
    nodes+=($!)
    until grep -q "Ray runtime started" "$folder/$1.log"; do
        kill -0 "${nodes[-1]}" 2>/dev/null || { cat "$folder/$1.log" >&2; exit 1; }
        sleep 0.5
    done
}
node head 8271 8272 --head --port="${head#*:}" --dashboard-host=127.0.0.1 --dashboard-port="${jobs#*:}" \
    --ray-client-server-port=8275
# Both nodes log to one folder, which the head's log monitor reads; a second monitor would print every line again.
node worker 8273 8274 --address="$head" --include-log-monitor=false

cat <<TEXT
Two nodes of $cpus CPUs. In another terminal:

export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://$jobs
ray job submit --working-dir . -- python jobs/train.py --steps 100 --workers 2 --name two-nodes --storage $folder/runs

Ctrl-C here ends both nodes and removes $folder, with the run in it.
TEXT
wait "${nodes[@]}"
