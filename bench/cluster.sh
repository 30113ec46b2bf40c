#!/bin/sh
# A cluster in this machine: hosts that are network namespaces, with a switch between them. They
# share its cores and its disk, and have a name, a network and shared memory of their own. All of it
# is gone when the command ends; root is not needed where users may make namespaces.
#
#   bench/cluster.sh HOSTS [--mbits RATE] [--slow HOST=RATE] [--traps] [COMMAND...]
#
# runs COMMAND, or a shell, on node-1, of node-1 to node-HOSTS. RATE is that of a port, in Mbit/s.
# With --traps each host has two more networks that lead nowhere, as Wi-Fi's and Docker's may.
# In it, `ip netns exec node-2 ip link set eth0 down` pulls the cable of node-2, `up` puts it back,
# and ps, kill and pkill see the processes of these hosts alone.

# Instead of ssh, MPI's launchers call this file as $CLUSTER [OPTION...] HOST COMMAND...
set -eu

if [ "${CLUSTER:-}" = "$0" ]; then # as ssh
    while [ "${1#-}" != "$1" ]; do shift; done
    host=$1
    shift
    exec nsenter --net="/run/netns/$host" unshare --uts --mount --ipc --pid --fork --kill-child \
        --mount-proc sh -c '
            hostname "$0"
            mount -t tmpfs tmpfs /dev/shm
            mount -t sysfs sysfs /sys
            exec sh -c "$1"' "$host" "$*"
fi
if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit
fi
if [ -z "${INSIDE:-}" ]; then
    command -v ip >/dev/null || { echo "$0: there is no ip here: install iproute2" >&2 && exit 2; }
    INSIDE=1 exec unshare --user --map-root-user --net --mount --pid --fork --kill-child \
        --mount-proc sh "$0" "$@"
fi
unset INSIDE

rate= slow= traps= count=${1:-}
case $count in
'' | *[!0-9]*)
    echo "usage: $0 HOSTS [--mbits RATE] [--slow HOST=RATE] [--traps] [COMMAND...]" >&2
    exit 2
    ;;
esac
shift
while [ $# -gt 0 ] && [ "${1#--}" != "$1" ]; do
    case $1 in
    --mbits) rate=$2 && shift ;;
    --slow)
        if ! seq -f "node-%.0f" "$count" | grep -qFx "${2%=[1-9]*}"; then
            echo "$0: --slow $2 is not like node-1=20, one of the hosts and Mbit/s" >&2
            exit 2
        fi
        slow="$slow $2" && shift
        ;;
    --traps) traps=yes ;;
    *) echo "$0: $1 is no option" >&2 && exit 2 ;;
    esac
    shift
done

limit() { # as tc wants it
    tc "$@" root tbf rate "${mbits}mbit" burst 64kb latency 50ms
}

mount -t tmpfs tmpfs /run
echo "127.0.0.1 localhost" >/run/hosts
ip link add switch type bridge
ip link set switch up
for i in $(seq "$count"); do
    host=node-$i
    echo "10.7.0.$i $host" >>/run/hosts
    ip netns add "$host"
    ip -n "$host" link set lo up
    ip link add "cable-$i" type veth peer name eth0 netns "$host"
    ip link set "cable-$i" master switch up
    ip -n "$host" addr add "10.7.0.$i/24" dev eth0
    ip -n "$host" link set eth0 up
    mbits=$rate
    for each in $slow; do
        [ "${each%=*}" = "$host" ] && mbits=${each#*=}
    done
    if [ -n "$mbits" ]; then
        limit qdisc add dev "cable-$i"
        limit -n "$host" qdisc add dev eth0
    fi
    if [ -n "$traps" ]; then
        # A wireless network on which nobody hears anybody, and Docker's, the same everywhere.
        ip link add "air-$i" type veth peer name wlan0 netns "$host"
        ip link set "air-$i" up
        ip -n "$host" addr add "10.8.0.$i/24" dev wlan0
        ip link add "box-$i" type veth peer name docker0 netns "$host"
        ip link set "box-$i" up
        ip -n "$host" addr add 172.17.0.1/16 dev docker0
        for link in wlan0 docker0; do ip -n "$host" link set "$link" up; done
    fi
done
mount --bind /run/hosts /etc/hosts

CLUSTER=$(readlink -f "$0")
export CLUSTER TMPDIR=/run HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC="$CLUSTER" \
    PRTE_MCA_plm_ssh_agent="$CLUSTER"
[ $# -gt 0 ] || set -- "${SHELL:-sh}"
exec nsenter --net=/run/netns/node-1 unshare --uts --mount --ipc sh -c '
    hostname node-1
    mount -t sysfs sysfs /sys
    exec "$@"' sh "$@"
