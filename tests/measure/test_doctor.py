"""The doctor, on hosts with planted faults: each is named, and a healthy host says nothing."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from npnet.machine.sensors import CPUS, GET_THROTTLED, Sensors
from npnet.measure import host as facts
from npnet.measure.doctor import CHECKS, examine, launcher_fits
from npnet.measure.findings import Finding, merged
from npnet.measure.host import Disk, Host, Interface, Plan, look
from npnet.parallel.communicator import SerialCommunicator
from tests.cifar_files import change, write_cifar
from tests.launch import npnet_run
from tests.machine.test_sensors import plant
from tests.namespaces import hosts as several_hosts

MPICH = "MPICH Version: 5.0.2"
HYDRA = "HYDRA build details: Version: 5.0.2"
OPEN_MPI = "Open MPI v5.0.11, package: Open MPI"
ROUTES = "Iface\tDestination\tGateway\n"
HOSTS = "127.0.0.1\tlocalhost\n192.168.1.100 pi-0\n192.168.1.101 pi-1 # the second\n"


@pytest.fixture
def healthy(tmp_path):
    return Host(
        name="pi-0",
        ranks=2,
        threads=1,
        cores=4,
        pointer_bits=64,
        versions={"npnet's code": "1234", "Python": "3.11.2", "NumPy": "2.0.0", "Numba": "0.60.0"},
        mpi=MPICH,
        mpiexec=HYDRA,
        started_by_mpiexec=False,
        own_addresses=("192.168.1.100",),
        interfaces=(Interface("eth0", False, False, True),),
        network_chosen=False,
        listed=("pi-0", "pi-1"),
        resolved={"pi-0": "192.168.1.100", "pi-1": "192.168.1.101"},
        is_listed=True,
        target="aarch64 cortex-a72 neon",
        cache_problem="",
        cache_on_network="",
        data="abcd",
        data_problem="",
        clock_ahead_seconds=0.0,
        clock_before_files=False,
        health=Sensors(tmp_path).read()._replace(throttled="no", temperature_celsius=55.0),
        governors=("performance",),
        swap_used_bytes=0,
        available_bytes=3_000_000_000,
        needed_bytes=520_000_000,
        blas="scipy-openblas",
        disk=Disk("/home/pi/npnet", 20e6, 10_000_000_000, False),
    )


def found(*hosts):
    return merged(finding for check in CHECKS for finding in check(hosts))


def only(*hosts):
    (finding,) = found(*hosts)
    return finding


def second(host, **facts):
    """Another host, like the first."""
    other = replace(host, name="pi-1", own_addresses=("192.168.1.101",), disk=None)
    return replace(other, **facts)


def test_healthy_hosts_say_nothing(healthy):
    assert found(healthy) == []
    together = replace(healthy, started_by_mpiexec=True)
    assert found(together, second(together)) == []


PLANTED = [
    ("64 bits", {"pointer_bits": 32}, "32 bits", True),
    ("other makers", {"mpi": OPEN_MPI}, "mpiexec is MPICH, mpi4py's library is Open MPI", True),
    ("no library", {"mpi": ""}, "mpiexec is MPICH, mpi4py's library is not found", True),
    ("no mpiexec", {"mpiexec": ""}, "mpiexec is not found", True),
    ("other versions of MPI", {"mpiexec": "HYDRA Version: 4.0"}, "MPICH 4.0, the library 5", False),
    ("loopback", {"own_addresses": ("127.0.1.1",)}, "gives 127.0.1.1 for its own name", True),
    ("unknown", {"resolved": {"pi-0": "1.2.3.4", "pi-1": ""}}, "no address for pi-1", True),
    ("itself", {"resolved": {"a": "1.2.3.4", "b": "127.0.1.1"}, "listed": ()}, "127.0.1.1", True),
    ("unlisted", {"is_listed": False}, "the machinefile does not have it", False),
    ("threads", {"threads": 2}, "each rank has 2 threads", False),
    ("oversubscription", {"ranks": 5}, "5 ranks x 1 threads on 4 cores", True),
    ("memory", {"available_bytes": 400_000_000}, "2 ranks need about 520 MB, 400 MB", True),
    ("swap", {"swap_used_bytes": 90_000_000}, "90 MB of its programs are swapped", False),
    ("BLAS", {"blas": "blas"}, "BLAS blas", False),
    ("powersave", {"governors": ("powersave",)}, "governor powersave", True),
    ("ondemand", {"governors": ("ondemand",)}, "governor ondemand", False),
    ("cache", {"cache_problem": "/x: Read-only"}, "cannot be kept in /x: Read-only", True),
    ("shared cache", {"cache_on_network": "/nfs"}, "on a network: /nfs", False),
    ("clock", {"clock_before_files": True}, "behind the date of npnet's own files", False),
    ("disk", {"disk": Disk("/runs", 2e6, 10**10, False)}, "/runs takes 2.0 MB/s", False),
    ("full disk", {"disk": Disk("/runs", 2e7, 10**7, False)}, "10 MB are free", True),
    ("no disk", {"disk": Disk("/runs", 0, 0, False, "full")}, "cannot write in /runs: full", True),
    ("disk on NFS", {"disk": Disk("/runs", 2e7, 10**10, True)}, "/runs lies on a network", False),
]


@pytest.mark.parametrize(
    ("fault", "words", "harms"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED]
)
def test_a_fault_of_one_host_is_named(healthy, fault, words, harms):
    finding = only(replace(healthy, **fault))
    assert finding.hosts == ("pi-0",)
    assert words in finding.what
    assert finding.harms is harms
    assert finding.why
    assert finding.mend


CODE, NUMBA = {"npnet's code": "other"}, {"Numba": "0.61.0"}
BETWEEN = [
    ("MPI", {"mpi": "MPICH Version: 4.2"}, "its MPI library is MPICH Version: 4.2", True),
    ("processor", {"target": "aarch64 cortex-a76 neon"}, "cortex-a76, elsewhere aarch64", False),
    ("instructions", {"target": "aarch64 cortex-a72 sve"}, "offers other instructions", False),
    ("data", {"data": "dcba"}, "its dataset is another: digest dcba, elsewhere abcd", True),
    ("clock", {"clock_ahead_seconds": -90.2}, "its clock is 90 s behind others", False),
]


@pytest.mark.parametrize(
    ("fault", "words", "harms"), [case[1:] for case in BETWEEN], ids=[case[0] for case in BETWEEN]
)
def test_a_host_unlike_the_others_is_named(healthy, fault, words, harms):
    healthy = replace(healthy, started_by_mpiexec=True)
    odd, third = second(healthy, **fault), second(healthy)
    finding = only(healthy, odd, replace(third, name="pi-2"))
    assert finding.hosts == ("pi-1",)
    assert words in finding.what
    assert finding.harms is harms


@pytest.mark.parametrize(("name", "harms"), [("npnet's code", True), ("Numba", False)])
def test_another_version_is_named(healthy, name, harms):
    healthy = replace(healthy, started_by_mpiexec=True)
    finding = only(healthy, second(healthy, versions=healthy.versions | {name: "other"}))
    assert finding.hosts == ("pi-1",)
    assert finding.what == f"{name} is other, elsewhere {healthy.versions[name]}"
    assert finding.harms is harms


def test_the_first_host_may_be_the_odd_one(healthy):
    healthy = replace(healthy, started_by_mpiexec=True)
    others = [second(healthy), replace(second(healthy), name="pi-2")]
    assert only(replace(healthy, data="dcba"), *others).hosts == ("pi-0",)
    behind = [replace(each, clock_ahead_seconds=5.0) for each in others]
    finding = only(healthy, *behind)
    assert finding.hosts == ("pi-0",)
    assert "5 s behind" in finding.what


def test_the_same_fault_of_many_hosts_is_one_finding(healthy):
    slow = replace(healthy, governors=("ondemand",), started_by_mpiexec=True)
    assert only(slow, second(slow)).hosts == ("pi-0", "pi-1")


def test_faults_come_before_warnings():
    warning, fault = Finding(("a",), "b", "c", "d", harms=False), Finding(("a",), "b", "c", "d")
    assert merged([warning, fault]) == [fault, warning]


def test_hosts_of_the_same_name_are_named(healthy):
    pi = replace(healthy, name="raspberrypi (rank 0)", started_by_mpiexec=True)
    finding = only(pi, replace(second(pi), name="raspberrypi (rank 2)"))
    assert finding.what == "these hosts have the same name"


def test_a_loopback_name_and_wifi_do_no_harm_alone(healthy):
    wifi = Interface("wlan0", wireless=True, virtual=False, default_route=True)
    alone = replace(healthy, own_addresses=("127.0.1.1",), listed=(), resolved={})
    assert found(replace(alone, interfaces=(wifi,))) == []


def test_one_host_without_mpi_needs_none(healthy):
    alone = replace(healthy, listed=(), resolved={})
    assert found(replace(alone, mpi="", mpiexec="")) == []
    assert found(replace(alone, mpiexec="")) == []
    assert only(replace(healthy, mpi="", mpiexec="")).harms  # the machinefile has two hosts


@pytest.mark.parametrize(
    ("listed", "resolved"),
    [
        (("pi-0", "pi-1", "pi-0"), {"pi-0": "192.168.1.100", "pi-1": "192.168.1.101"}),
        (("pi-0", "pi-1", "x"), {"pi-0": "192.168.1.100", "pi-1": "1.2.3.4", "x": "192.168.1.100"}),
    ],
)
def test_a_host_that_is_listed_twice_is_named(healthy, listed, resolved):
    findings = found(replace(healthy, listed=listed, resolved=resolved))
    assert {each.what for each in findings} == {"the machinefile has it more than once"}


def interface(name, wireless=False, virtual=False, default_route=False):
    return Interface(name, wireless, virtual, default_route)


@pytest.mark.parametrize(
    ("extra", "words", "mend"),
    [
        (interface("docker0", virtual=True), "several networks: eth0, docker0", "docker0 down"),
        (interface("wlan0", wireless=True), "several networks: eth0, wlan0", "rfkill block wifi"),
        (
            interface("wlan0", wireless=True, default_route=True),
            "Wi-Fi is its way out",
            "rfkill block wifi",
        ),
        (interface("eth1"), "several networks: eth0, eth1", "UCX_NET_DEVICES"),
    ],
)
def test_a_second_network_is_named(healthy, extra, words, mend):
    host = replace(healthy, interfaces=(*healthy.interfaces, extra))
    finding = only(host)
    assert words in finding.what
    assert mend in finding.mend
    assert found(replace(host, network_chosen=True)) == []


def test_wifi_alone_is_named(healthy):
    finding = only(replace(healthy, interfaces=(interface("wlan0", True, False, True),)))
    assert "Wi-Fi is its way out" in finding.what


@pytest.mark.parametrize(
    ("bits", "harms"), [(0x50005, True), (0x50000, False), (0x1, True), (0x80000, False)]
)
def test_under_voltage_and_heat(healthy, tmp_path, bits, harms):
    root = plant(tmp_path / "pi", {GET_THROTTLED: f"{bits:x}\n"})
    finding = only(replace(healthy, health=Sensors(root).read()))
    assert finding.what.startswith("it is held back: ")
    assert finding.harms is harms


def test_a_hot_processor_is_named(healthy):
    finding = only(replace(healthy, health=healthy.health._replace(temperature_celsius=83.4)))
    assert finding.what == "its processor has 83 °C"


# What a host tells, from planted files


def test_the_own_name_in_the_hosts_file(tmp_path):
    plant(tmp_path, {"etc/hosts": "#127.0.1.1 pi-9\n127.0.1.1\tpi-0.home pi-0\n" + HOSTS})
    assert facts.own_addresses("pi-0", tmp_path) == ("127.0.1.1", "192.168.1.100")
    assert facts.own_addresses("pi-1", tmp_path) == ("192.168.1.101",)
    assert facts.own_addresses("pi-9", tmp_path) == ()
    assert facts.own_addresses("pi-0", tmp_path / "nothing") == ()


def test_interfaces_with_an_address(tmp_path):
    plant(
        tmp_path,
        {
            "proc/net/route": ROUTES
            + "wlan0\t00000000\t0101A8C0\neth0\t0001A8C0\t00000000\ndocker0\t000011AC\t00000000\n"
            + "*\t0000A8C0\t00000000\n",
            "sys/class/net/wlan0/wireless/x": "",
            "sys/class/net/wlan0/device/x": "",
            "sys/class/net/eth0/device/x": "",
            "sys/class/net/docker0/mtu": "1500\n",
            "sys/class/net/eth1/device/x": "",  # no cable, no address
        },
    )
    assert facts.interfaces(tmp_path) == (
        Interface("wlan0", wireless=True, virtual=False, default_route=True),
        Interface("eth0", wireless=False, virtual=False, default_route=False),
        Interface("docker0", wireless=False, virtual=True, default_route=False),
    )
    assert facts.interfaces(tmp_path / "nothing") == ()


def test_governors(tmp_path):
    folders = {f"{CPUS}/cpu{core}/cpufreq/scaling_governor": "ondemand\n" for core in range(4)}
    plant(tmp_path, {**folders, f"{CPUS}/cpu0/cpufreq/scaling_driver": "cpufreq-dt\n"})
    assert facts.governors(tmp_path) == ("ondemand",)
    for core in range(4):  # there, `powersave` is the usual state and no fault
        plant(tmp_path, {f"{CPUS}/cpu{core}/cpufreq/scaling_driver": "intel_pstate\n"})
    assert facts.governors(tmp_path) == ()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("NPNET_CACHE", str(tmp_path / "cache"))
    assert facts.cache_problem() == ""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NPNET_CACHE", str(tmp_path / "file/cache"))
    assert facts.cache_problem() == f"{tmp_path}/file/cache: Not a directory"
    (tmp_path / "all").mkdir()
    (tmp_path / "all").chmod(0o777)
    monkeypatch.setenv("NPNET_CACHE", str(tmp_path / "all/cache"))
    assert facts.cache_problem().endswith(f"others can write there: {tmp_path}/all")


def test_a_disk_is_measured_where_the_run_folder_will_be(tmp_path):
    disk = facts.disk(tmp_path / "runs/first")
    assert disk.folder == str(tmp_path)
    assert disk.bytes_per_second > 0
    assert disk.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert facts.disk(tmp_path).problem == "No space left on device"
    assert list(tmp_path.iterdir()) == []


def plan(tmp_path, **values):
    data = {"dataset": "cifar10", "data_dir": tmp_path}
    return Plan(**{**data, "out": tmp_path, "rank_bytes": 10**8, "threads": 1, **values})


def test_what_a_host_tells(tmp_path):
    """Its own name among the machinefile's, by which more ranks are to come than look."""
    plant(tmp_path, {"etc/hosts": HOSTS})
    machines = [("pi-0", 2), ("127.0.0.1", 3), ("nobody", 1)]
    known = {"pi-0": "192.168.1.100", "127.0.0.1": "127.0.0.1"}

    def resolve(name):
        if name not in known:
            raise OSError("unknown")
        return known[name]

    host = look(plan(tmp_path, machines=machines), 1, root=tmp_path, resolve=resolve)
    assert host.resolved == {**known, "nobody": ""}
    assert (host.ranks, host.needed_bytes) == (3, 3 * 10**8)
    assert host.is_listed
    assert "cifar10 is not in" in host.data_problem
    assert set(host.versions) == {"npnet's code", "Python", "NumPy", "Numba"}
    assert host.pointer_bits == 64
    assert host.available_bytes > 0
    assert host.disk is not None
    assert not look(
        plan(tmp_path, machines=[("x", 1)]), 1, root=tmp_path, resolve=resolve
    ).is_listed


def test_missing_data_are_named_with_what_fetches_them(healthy, tmp_path):
    _, problem = facts.dataset(plan(tmp_path))
    finding = only(replace(healthy, data="", data_problem=problem))
    assert finding.what == f"cifar10 is not in {tmp_path}"
    assert finding.mend == f"fetch it with: npnet data fetch cifar10 --data-dir {tmp_path}"


def test_damaged_data_are_named(healthy, tmp_path):
    folder = write_cifar(tmp_path)
    digest, problem = facts.dataset(plan(tmp_path))
    assert digest
    assert problem == ""
    change(folder / "data_batch_3", labels=[99] * 6)
    digest, problem = facts.dataset(plan(tmp_path))
    assert digest == ""
    finding = only(replace(healthy, data=digest, data_problem=problem))
    assert "data_batch_3" in finding.what
    assert finding.mend == "fetch it again, into another folder"


def test_this_host_is_examined(tmp_path):
    findings, checks, hosts = examine(SerialCommunicator(), plan(tmp_path))
    assert "cifar10 is not in" in next(each.what for each in findings if "cifar10" in each.what)
    assert (checks, hosts) == (len(CHECKS), 1)


# The launcher


@pytest.mark.parametrize(
    ("environment", "library", "fits"),
    [
        ({}, MPICH, True),
        ({"PMI_SIZE": "2"}, MPICH, True),
        ({"PMI_SIZE": "2"}, "Intel(R) MPI Library 2021.1", True),
        ({"PMI_SIZE": "2"}, OPEN_MPI, False),
        ({"PMI_SIZE": "2"}, "", False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, OPEN_MPI, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, MPICH, False),
    ],
)
def test_the_launcher_and_the_library_are_of_one_maker(environment, library, fits):
    assert (launcher_fits("pi-0", environment, library) is None) == fits


# The command


def doctor(place: Path, *options, **how):
    return npnet_run("doctor", "--dataset", "shapes", *options, cwd=place, **how)


def faults(run):
    return re.findall(r"^\[FAULT\] (.*)$", run.stdout, re.MULTILINE)


@pytest.mark.mpi
def test_two_ranks_of_one_host_are_one_patient(tmp_path):
    run = doctor(tmp_path, ranks=2)
    assert re.search(r"\(\d+ checks on 1 host\)\n$", run.stdout), run
    assert run.status == bool(faults(run))


def test_a_fault_is_told_with_why_and_what_mends_it(tmp_path):
    run = npnet_run(
        *("doctor", "--dataset", "cifar10", "--data-dir", "nowhere"), cwd=tmp_path, started=True
    )
    assert run.status == 1
    assert "cifar10 is not in nowhere" in run.stdout
    assert "    why:  a run refuses to start\n" in run.stdout
    assert "    mend: fetch it with: npnet data fetch cifar10 --data-dir nowhere\n" in run.stdout


QUIET = """
import npnet.measure.doctor as engine
from npnet.measure.findings import Finding
engine.CHECKS = ()
"""
WARNING = """
engine.CHECKS = (lambda hosts: [Finding((hosts[0].name,), "a", "b", "c", harms=False)],)
"""


def test_a_healthy_host_says_one_line(tmp_path):
    run = doctor(tmp_path, patches=QUIET)
    assert (run.status, run.stdout) == (0, "nothing found (0 checks on 1 host)\n")


def test_warnings_harm_when_asked_to(tmp_path):
    run = doctor(tmp_path, patches=QUIET + WARNING)
    assert run.status == 0
    assert run.stdout.endswith("\n1 warning (1 check on 1 host)\n")
    assert doctor(tmp_path, "--strict", patches=QUIET + WARNING).status == 1


def test_ranks_that_are_too_many_are_counted_by_the_machinefile(tmp_path):
    (tmp_path / "hosts").write_text("localhost:999\n")
    run = doctor(tmp_path, "--machinefile", "hosts")
    assert any("999 ranks x 1 threads" in fault for fault in faults(run)), run


WRONG_LIBRARY = """
import npnet.measure.host as host
host.mpi_library = lambda: "OTHER"
"""


@pytest.mark.mpi
def test_an_mpiexec_of_another_mpi_is_told_once_and_nobody_joins(tmp_path):
    script = WRONG_LIBRARY.replace("OTHER", OPEN_MPI)
    run = doctor(tmp_path, ranks=2, patches=script)
    if run.status == 0:
        pytest.skip("this is Open MPI itself")
    assert len(faults(run)) == 1
    assert "mpiexec is MPICH's, mpi4py's library is Open MPI" in run.stdout
    assert set(run.statuses) == {1}


LATE_CLOCK = """
import time
now = time.time
if rank == 1:
    time.time = lambda: now() - 3600
"""


@pytest.mark.mpi
def test_a_clock_that_is_an_hour_late_is_found(tmp_path):
    run = doctor(tmp_path, ranks=3, patches=LATE_CLOCK, environment={"MPIR_CVAR_NOLOCAL": "1"})
    if "on 1 host)" in run.stdout:
        pytest.skip("this MPI cannot take ranks of one host for several hosts")
    assert re.search(r"\(rank 1\): its clock is 3600 s behind others", run.stdout), run


@pytest.mark.mpi
def test_a_hosts_file_that_names_the_host_a_loopback_is_found(tmp_path):
    with several_hosts(tmp_path, "pi-1", "pi-2") as made:
        table = tmp_path / "pi-2.hosts"
        table.write_text("127.0.1.1 pi-2\n" + table.read_text())
        run = made.run(sys.executable, "-m", "npnet", "doctor", "--dataset", "shapes")
    assert "[FAULT] pi-2: /etc/hosts gives 127.0.1.1 for its own name" in run.stdout, run
    assert run.returncode == 1
