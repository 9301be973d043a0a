"""What may still be allocated, in a container and outside."""

import psutil
import torch

from radit_job.models.free_memory import free_bytes

CPU = torch.device("cpu")


def cgroup(folder, limit):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 400\ninactive_file 250\nactive_file 50\n")
    return folder


def test_a_container_has_what_its_limit_leaves_and_the_cached_files(tmp_path):
    assert free_bytes(CPU, cgroup(tmp_path, 1000)) == 1000 - 700 + 250


def test_without_a_limit_it_is_what_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("memory", (), {"available": 12345}))
    assert free_bytes(CPU, cgroup(tmp_path, "max")) == 12345
    assert free_bytes(CPU, tmp_path / "no cgroup") == 12345
