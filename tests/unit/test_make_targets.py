"""The Makefile's cluster targets, with programs of the same names that only note how they were called.

kind and its cluster take minutes and a container engine; what is held here is which commands run, in which order,
and what is said when a program is missing.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ["make", "sh", "grep", "sed", "od", "tr", "mkdir", "rm", "cat", "sleep", "env", "touch"]
NOTING = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
. "$ANSWERS/$(basename "$0")"
"""


@dataclass
class Bench:
    """A folder with the project's Makefile, and a PATH with nothing on it but what a test puts there."""

    folder: Path

    def has(self, program: str, answer: str = "") -> None:
        """Put a program there; `answer` is shell that sees the call's arguments."""
        path = self.folder / "bin" / program
        path.write_text(NOTING)
        path.chmod(0o755)
        (self.folder / "answers" / program).write_text(answer)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.folder / "bin"), "CALLS": str(self.folder / "calls")}
        env |= {"ANSWERS": str(self.folder / "answers"), "HOME": str(self.folder)}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    for name in ("Makefile", "pyproject.toml", "k8s"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("bin", "answers"):
        (tmp_path / name).mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"{tool} is not there")
        (tmp_path / "bin" / tool).symlink_to(os.path.realpath(found) if tool != "sh" else found)
    (tmp_path / "bin" / "basename").symlink_to(shutil.which("basename") or "basename")
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("target", "there", "missing"),
    [
        ("image", [], "docker"),
        ("kind-up", [], "docker"),
        ("kind-up", ["podman"], "kind"),
        ("kind-up", ["docker", "kind"], "kubectl"),
        ("kind-run", ["docker"], "kind"),
        ("kind-run", ["kind"], "kubectl"),
        ("kind-down", [], "kind"),
        ("e2e", [], "kubectl"),
    ],
)
def test_a_missing_program_is_named_before_anything_runs(
    bench: Bench, target: str, there: list[str], missing: str
) -> None:
    for program in there:
        bench.has(program)
    done = bench.run("make", target)
    assert done.returncode != 0 and not bench.calls()
    assert f"make {target} needs the program {missing}: " in done.stderr
    assert "https://" in done.stderr


def test_the_image_takes_its_arguments_from_variables_that_are_set(bench: Bench) -> None:
    bench.has("podman")
    assert bench.run("make", "image").returncode == 0
    [plain] = bench.calls()
    assert plain.startswith("podman build --tag radit-job:") and "TORCH_INDEX_URL" not in plain
    assert bench.run("make", "image", "TORCH_INDEX_URL=", "PIP_CONFIG=/etc/pip.conf", "BASE_IMAGE=b:1").returncode == 0
    call = bench.calls()[-1].split()
    assert {"TORCH_INDEX_URL=", "BASE_IMAGE=b:1", "id=pip,src=/etc/pip.conf"} <= set(call) and call[-1] == "."


def test_kind_up_makes_what_is_not_there_and_keeps_what_is(bench: Bench) -> None:
    bench.has("docker")
    bench.has("kind")
    bench.has("kubectl", 'case "$*" in *"get secret"*) exit 1;; *"create secret"*) cat > "$ANSWERS/secret";; esac')
    done = bench.run("make", "kind-up")
    assert done.returncode == 0, done.stderr
    calls = bench.calls()
    steps = [
        "docker build ",
        "kind create cluster --name radit ",
        "docker save --output build/image.tar localhost/radit-job:kind",
        "kind load image-archive build/image.tar --name radit",
        "kubectl --context kind-radit apply -f k8s/base/namespace.yaml",
        "kubectl --context kind-radit -n radit create secret generic radit-s3 --from-env-file=/dev/stdin",
        "kubectl --context kind-radit apply -f - -l app.kubernetes.io/component!=controller",
        "kubectl --context kind-radit -n radit wait --for=condition=complete --timeout=10m job/make-bucket",
    ]
    at = [next(i for i, call in enumerate(calls) if call.startswith(step)) for step in steps]
    assert at == sorted(at)
    key, secret = (line.partition("=")[2] for line in (bench.folder / "answers/secret").read_text().splitlines())
    assert key == "radit" and len(secret) == 40
    assert secret not in "\n".join(calls) + done.stdout + done.stderr

    bench.has("kind", "echo radit")
    bench.has("kubectl")
    (bench.folder / "calls").unlink()
    assert bench.run("make", "kind-up").returncode == 0
    assert not [call for call in bench.calls() if "create cluster" in call or "create secret" in call]


CONTROLLER = """
case "$*" in
  *"get job"*) cat "$ANSWERS/state" 2>/dev/null || true;;
  *"get pods"*) echo radit-x;;
  *"get pod radit-x"*) [ -f "$ANSWERS/pulled" ] || { : > "$ANSWERS/pulled"; echo ImagePullBackOff; };;
  *"logs --follow radit-x"*) echo "the table"; echo %s > "$ANSWERS/state";;
esac
"""


@pytest.mark.parametrize(("end", "code"), [("SuccessCriteriaMet Complete", 0), ("FailureTarget Failed", 1)])
def test_kind_run_replaces_the_controller_follows_it_and_ends_as_it_ends(bench: Bench, end: str, code: int) -> None:
    bench.has("kind", "echo other; echo radit")
    bench.has("kubectl", CONTROLLER % f"'{end}'")
    done = bench.run("make", "kind-run")
    assert (done.returncode != 0) == (code != 0), done.stderr
    assert "the table" in done.stdout.splitlines() and "radit-x waits: ImagePullBackOff" in done.stderr
    assert ("Job failed" in done.stderr) == (code == 1)
    calls = bench.calls()
    assert calls[1].startswith("kubectl --context kind-radit -n radit delete job radit --ignore-not-found")
    assert calls[2] == "kubectl --context kind-radit apply -k k8s/overlays/kind"
    assert len([call for call in calls if "logs --follow" in call]) == 1


def test_kind_run_without_its_cluster_says_what_makes_it(bench: Bench) -> None:
    bench.has("kind", "echo other")
    bench.has("kubectl")
    done = bench.run("make", "kind-run")
    assert done.returncode != 0 and "make kind-up" in done.stderr
    assert bench.calls() == ["kind get clusters"]


def test_kind_down_deletes_only_its_own_cluster(bench: Bench) -> None:
    bench.has("kind")
    assert bench.run("make", "kind-down").returncode == 0
    assert bench.calls() == ["kind delete cluster --name radit"]


def test_e2e_needs_a_cluster_that_answers(bench: Bench) -> None:
    bench.has("kubectl", "echo connection refused >&2; exit 1")
    done = bench.run("make", "e2e")
    assert done.returncode != 0 and "current context does not answer" in done.stderr


KIND_NETWORK = """
[{"IPAM": {"Config": [
  {
    "Gateway": "fc00:f853:ccd:e793::1"
  },
  {
    "Gateway": "172.18.0.1"
  }
]}}]
"""


@pytest.fixture
def e2e(bench: Bench) -> Bench:
    """An environment that is ready, whose Python tells what the tests are given."""
    (bench.folder / ".venv/bin").mkdir(parents=True)
    (bench.folder / ".venv/bin/python").symlink_to(bench.folder / "bin/python")
    for name in ("constraints.txt", ".venv/.ready", ".venv/.ready-dev"):
        (bench.folder / name).touch()
    bench.has("python", 'echo "$RADIT_TEST_IMAGE at $RADIT_TEST_HOST"')
    return bench


@pytest.mark.parametrize(
    ("context", "settings", "told"),
    [
        ("kind-radit", [], "localhost/radit-job:kind at 172.18.0.1"),
        ("kind-radit", ["RADIT_TEST_IMAGE=a:1", "RADIT_TEST_HOST=10.0.0.1"], "a:1 at 10.0.0.1"),
        ("mine", ["RADIT_TEST_HOST=10.0.0.1"], "radit-job:latest at 10.0.0.1"),
    ],
)
def test_e2e_tells_the_tests_the_image_and_the_host(e2e: Bench, context: str, settings: list[str], told: str) -> None:
    e2e.has("kubectl", f"echo {context}")
    e2e.has("docker", f"cat <<'END'{KIND_NETWORK}END\n")
    done = e2e.run("make", "e2e", *settings)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout.splitlines()
    assert e2e.calls()[-1] == "python -m pytest -m cluster"


def test_e2e_on_another_cluster_needs_to_be_told_the_host(e2e: Bench) -> None:
    e2e.has("kubectl", "echo mine")
    done = e2e.run("make", "e2e")
    assert done.returncode != 0 and "needs RADIT_TEST_HOST" in done.stderr
    assert not [call for call in e2e.calls() if call.startswith("python")]


def test_bench_installs_what_it_compares_with_once(e2e: Bench) -> None:
    e2e.has("python")
    for _ in range(2):
        done = e2e.run("make", "bench")
        assert done.returncode == 0, done.stderr
    [installed, *tables] = e2e.calls()
    assert installed.startswith("python -m pip install ") and installed.endswith(" --editable .[bench]")
    assert tables == ["python benchmarks/table.py"] * 2
