"""How much memory there is to load a model into."""

import subprocess
import sys

import pytest
import torch

from mistral_eval.model import memory


def test_a_cgroups_limit_counts_and_its_droppable_pages_are_free(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 300\n")

    assert memory._cgroup_memory(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_memory(tmp_path) is None
    assert memory._cgroup_memory(tmp_path / "absent") is None


def test_memory_of_this_machine_is_known():
    free = memory.available_memory(torch.device("cpu"))

    assert free is None or free > 1 << 20


@pytest.mark.parametrize(("written", "expected"), [("max", None), ("1073741824", 1 << 30)])
def test_a_containers_limit_is_read_where_there_is_one(tmp_path, written, expected):
    (tmp_path / "memory.max").write_text(f"{written}\n")

    assert memory.memory_limit(tmp_path) == expected
    assert memory.memory_limit(tmp_path / "nowhere") is None


CHILD = """
from mistral_eval.model.memory import peak_bytes
print(peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss survives exec() on Linux")
def test_the_peak_of_a_process_does_not_count_that_of_the_program_which_started_it():
    """A suite of a large process once recorded 7.5 GB for a run of 0.7 GB."""
    large = torch.ones(2 << 28)  # 2 GiB
    alone = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True)

    assert memory.peak_bytes() > large.nbytes
    assert int(alone.stdout) < large.nbytes // 2
