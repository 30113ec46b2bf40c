"""The interface that leads to other hosts: the wired one, or none."""

import socket
from types import SimpleNamespace

import pytest

from npnet.machine import network

BOARD = {
    "lo": "127.0.0.1/255.0.0.0",
    "eth0": "192.168.1.100/255.255.255.0",
    "wlan0": "192.168.1.150/255.255.255.0",
    "docker0": "172.17.0.1/255.255.0.0",
}
NAMES = {
    "pi-00": "127.0.1.1",  # as Debian calls the host itself
    "pi-01": "192.168.1.101",
    "pi-02": "192.168.1.102",
    "air": "10.0.0.7",
    "box": "172.17.0.9",
}


@pytest.fixture
def board(monkeypatch):
    """A host with the given interfaces, which knows NAMES."""

    def make(interfaces, down=()):
        monkeypatch.setattr(
            network.psutil,
            "net_if_addrs",
            lambda: {
                name: [
                    SimpleNamespace(family=socket.AF_INET6, address="fe80::1%x", netmask=None),
                    SimpleNamespace(
                        family=socket.AF_INET,
                        **dict(zip(("address", "netmask"), each.split("/"), strict=True)),
                    ),
                ]
                for name, each in interfaces.items()
            },
        )
        monkeypatch.setattr(
            network.psutil,
            "net_if_stats",
            lambda: {name: SimpleNamespace(isup=name not in down) for name in interfaces},
        )

    def look_up(host, port, family):
        if host not in NAMES:
            raise socket.gaierror(-2, "Name or service not known")
        return [(family, 0, 0, "", (NAMES[host], 0))]

    monkeypatch.setattr(network.socket, "getaddrinfo", look_up)
    return make


@pytest.mark.parametrize(
    ("hosts", "interface"),
    [
        (["pi-00", "pi-01", "pi-02"], "eth0"),
        (["pi-00", "unknown"], "eth0"),  # the only wired one
        (["pi-00"], None),  # alone
        (["pi-00", "air"], None),
        (["pi-00", "pi-01", "box"], None),
    ],
)
def test_a_board_with_wireless_and_docker(board, hosts, interface):
    board(BOARD)
    assert network.interface_to(hosts) == interface


@pytest.mark.parametrize("name", ["wlan0", "wlp3s0", "docker0", "br-1a2b", "virbr0", "tun0", "wg0"])
def test_other_networks_are_never_taken(board, name):
    board({"lo": BOARD["lo"], name: BOARD["eth0"]})
    assert network.interface_to(["pi-00", "pi-01"]) is None


def test_of_two_wired_ones_that_which_holds_the_hosts(board):
    board({"eth0": "10.1.0.1/255.255.0.0", "enp3s0": "192.168.1.1/255.255.255.0"})
    assert network.interface_to(["pi-01", "pi-02"]) == "enp3s0"
    assert network.interface_to(["unknown", "pi-02"]) is None
    assert network.interface_to(["air", "pi-02"]) is None


def test_an_interface_that_is_down_is_none(board):
    board(BOARD, down=["eth0"])
    assert network.interface_to(["pi-01", "pi-02"]) is None
    assert "eth0" not in network.interfaces()


def test_infiniband_is_left_to_mpi(board):
    board(BOARD | {"ib0": "10.9.0.1/255.255.0.0"})
    assert network.interface_to(["pi-01", "pi-02"]) is None
