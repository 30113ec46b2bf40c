"""Ranges of host names, and machinefiles."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npnet.errors import NpnetError
from npnet.parallel.hosts import LINES, Machinefile, expand, machinefile


@pytest.mark.parametrize(
    ("pattern", "hosts"),
    [
        ("pi", ["pi"]),
        ("a[00-03,07],b1", ["a00", "a01", "a02", "a03", "a07", "b1"]),
        ("pi-[8-11].lan", ["pi-8.lan", "pi-9.lan", "pi-10.lan", "pi-11.lan"]),
        ("pi-[098-101]", ["pi-098", "pi-099", "pi-100", "pi-101"]),
        ("r[1-2]-[0,3]", ["r1-0", "r1-3", "r2-0", "r2-3"]),
        ("b,a[2]", ["b", "a2"]),
    ],
)
def test_ranges(pattern, hosts):
    assert expand(pattern) == hosts


@given(st.integers(0, 9999), st.integers(0, 99), st.integers(1, 6))
def test_a_range_has_every_number_with_its_zeros(first, count, digits):
    hosts = expand(f"pi-[{first:0{digits}d}-{first + count:0{digits}d}]")
    assert [int(host.removeprefix("pi-")) for host in hosts] == [*range(first, first + count + 1)]
    assert all(len(host) >= len("pi-") + digits for host in hosts)
    assert all(len(host) == len(hosts[0]) or int(host[3]) > 0 for host in hosts)


@given(st.text("ab01-,[]", max_size=12))
def test_any_text_is_hosts_or_refused(text):
    try:
        hosts = expand(text)
    except NpnetError:
        return
    assert len(set(hosts)) == len(hosts) > 0
    assert not set("".join(hosts)) & set(",[]")
    assert expand(",".join(hosts)) == hosts


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "'' is no name"),
        ("a,,b", "'' is no name"),
        ("a b", "'a b' is no name"),
        ("a[1-3", "'a[1-3' is no name"),
        ("a1-3]", "'a1-3]' is no name"),
        ("a[[1]]", "is no name"),
        ("a[]", "'' is neither a number nor a range"),
        ("a[1-2-3]", "'1-2-3' is neither a number nor a range"),
        ("a[x-z]", "'x-z' is neither a number nor a range"),
        ("a[3-1]", "the range 3-1 ends before it begins"),
        ("a[1-3],a2", "a2 is named twice"),
        ("a[1,1]", "a1 is named twice"),
        ("a[0-999999999]", "more than 10000 hosts"),
        ("a[0-999][0-999]", "more than 10000 hosts"),
    ],
)
def test_no_hosts(pattern, words):
    with pytest.raises(NpnetError) as caught:
        expand(pattern)
    assert words in str(caught.value)


@given(
    st.lists(st.text("a1.-_", min_size=1, max_size=6), min_size=1, max_size=9, unique=True),
    st.integers(1, 64),
    st.sampled_from(sorted(LINES)),
)
def test_what_is_written_is_read(tmp_path_factory, hosts, ranks, maker):
    path = tmp_path_factory.getbasetemp() / "hosts"
    path.write_text(machinefile(hosts, ranks, maker))
    found = Machinefile.read(path)
    assert list(found.ranks.items()) == [(host, ranks) for host in hosts]
    assert found.maker == maker


def read(tmp_path: Path, text: str) -> Machinefile:
    (tmp_path / "hosts").write_text(text)
    return Machinefile.read(tmp_path / "hosts")


def test_comments_blank_lines_plain_hosts_and_further_words(tmp_path):
    assert read(tmp_path, "# ours\n\na\nb  # the old one\na\n").ranks == {"a": 2, "b": 1}
    assert read(tmp_path, "a:2 binding=core\n")[1:] == ((("a", 2),), "mpich")
    assert read(tmp_path, "a slots=2 max_slots=4\n")[1:] == ((("a", 2),), "openmpi")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no host"),
        ("a:2\nb slots=2\n", "lines of both forms"),
        ("a:2\nb: 2\n", "line 2: 'b: 2' is neither host:2 nor host slots=2"),
        ("a:0\n", "line 1"),
        ("a 2\n", "line 1"),
    ],
)
def test_no_machinefile(tmp_path, text, words):
    with pytest.raises(NpnetError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)


def test_a_missing_machinefile(tmp_path):
    with pytest.raises(NpnetError, match="No such file or directory; `npnet machinefile` writes"):
        Machinefile.read(tmp_path / "hosts")


def test_hosts_that_hold_too_few_ranks(tmp_path):
    file = read(tmp_path, "a:2\nb:2\n")
    file.check(4, None, "mpich")
    file.check(6, 3, "mpich")
    with pytest.raises(NpnetError, match=r"holds 4 ranks \(2 hosts\), 5 are too many"):
        file.check(5, None, "mpich")
    with pytest.raises(NpnetError, match="holds 2 ranks"):
        file.check(3, 1, "mpich")
    with pytest.raises(NpnetError, match=r"has the form of MPICH, and .* Open MPI's"):
        file.check(4, None, "openmpi")
