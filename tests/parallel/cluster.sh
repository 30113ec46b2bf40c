#!/bin/sh
# A cluster of network namespaces, for one command: N hosts with a network between them, and two that
# lead nowhere. All of it lives in namespaces of this process, and is gone when it ends.
#
#   unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc \
#       sh tests/parallel/cluster.sh N COMMAND...     run COMMAND on node-1, of node-1 to node-N
#
# Instead of ssh, MPI's launchers call this file as $AGENT [OPTION...] HOST COMMAND...
set -eu

if [ "${AGENT:-}" = "$0" ]; then
    while [ "${1#-}" != "$1" ]; do shift; done
    host=$1
    shift
    # A host has a name, a network and shared memory of its own.
    exec nsenter --net="/run/netns/$host" unshare --uts --mount --ipc --pid --fork --kill-child --mount-proc sh -c '
        hostname "$0"; mount -t tmpfs tmpfs /dev/shm; mount -t sysfs sysfs /sys; exec sh -c "$1"' "$host" "$*"
fi

count=$1
shift
mount -t tmpfs tmpfs /run
echo "127.0.0.1 localhost" > /run/hosts
ip link add switch type bridge
ip link set switch up
for i in $(seq "$count"); do
    host=node-$i
    echo "10.7.0.$i $host" >> /run/hosts
    ip netns add "$host"
    ip -n "$host" link set lo up
    ip link add "cable-$i" type veth peer name eth0 netns "$host"
    ip link set "cable-$i" master switch up
    ip -n "$host" addr add "10.7.0.$i/24" dev eth0
    # The traps: a wireless network on which nobody hears anybody, and Docker's, the same everywhere.
    ip link add "air-$i" type veth peer name wlan0 netns "$host"
    ip link set "air-$i" up
    ip -n "$host" addr add "10.8.0.$i/24" dev wlan0
    ip link add "box-$i" type veth peer name docker0 netns "$host"
    ip link set "box-$i" up
    ip -n "$host" addr add 172.17.0.1/16 dev docker0
    for link in eth0 wlan0 docker0; do ip -n "$host" link set "$link" up; done
done
mount --bind /run/hosts /etc/hosts

AGENT=$(readlink -f "$0")
export AGENT TMPDIR=/run HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC="$AGENT" PRTE_MCA_plm_ssh_agent="$AGENT"
exec nsenter --net=/run/netns/node-1 unshare --uts --mount --ipc sh -c 'hostname node-1; mount -t sysfs sysfs /sys; exec "$@"' sh "$@"
