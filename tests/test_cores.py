"""How many threads are taken: hand-written files of the system, and what they mean."""

import math
import os

import pytest

from edgesink.errors import BadOption
from edgesink.runtime.bound_graph import RunOptions, _session_options
from edgesink.runtime.cores import cores_of, cpu_quota, threads_to_take

V1 = "/sys/fs/cgroup/cpu"
V2 = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
        ({f"{V2}/cpu.max": "max 100000\n"}, math.inf),
        ({"/proc/self/cgroup": "0::/pod/box\n", f"{V2}/pod/box/cpu.max": "50000 100000"}, 0.5),
        ({"/proc/self/cgroup": "0::/pod/box\n", f"{V2}/pod/cpu.max": "200000 100000"}, 2),  # of the group above
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({f"{V1}/cpu.cfs_quota_us": "300000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 3),
        (
            {
                "/proc/self/cgroup": "3:cpu,cpuacct:/docker/a\n1:name=systemd:/\n",
                f"{V1}/docker/a/cpu.cfs_quota_us": "100000",
                f"{V1}/docker/a/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        ({f"{V2}/cpu.max": "garbage"}, math.inf),
        ({f"{V2}/cpu.max": "1 0"}, math.inf),
    ],
)
def test_the_quota_of_a_container_is_read_in_both_versions(files, quota):
    assert cpu_quota(files.get) == quota


def test_two_threads_of_one_core_count_once():
    def siblings(first, second):
        return f"/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list", f"{first},{second}\n"

    files = dict([siblings(0, 4), (siblings(4, 0)[0], siblings(0, 4)[1]), siblings(1, 5)])
    assert cores_of({0, 1, 4}, files.get) == 2
    assert cores_of({7, 8}, files.get) == 2, "without those files each counts"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds a process to processors")
def test_a_process_bound_to_one_processor_takes_one_thread():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads_to_take(None) == 1
        assert threads_to_take(64) == 1
        assert _session_options(None).intra_op_num_threads == 1
    finally:
        os.sched_setaffinity(0, before)


def test_no_more_threads_are_started_than_there_are_processors():
    assert threads_to_take(1) == 1
    assert 1 <= threads_to_take(2**31) <= os.cpu_count()


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_at_all_are_refused(threads):
    with pytest.raises(BadOption, match="1 or more"):
        RunOptions(threads)
