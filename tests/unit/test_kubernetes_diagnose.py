"""Most cases are Jobs, pods and events of a real cluster (Kubernetes 1.35.6), recorded as kubectl showed them.

`recorded/kubernetes-1.35.json` leaves out what a diagnosis does not read. What that cluster could not be brought to do
is said in the form of its source, k8s.io/kubernetes.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from radit_job.errors import error_from_json
from radit_job.executors.kubernetes.diagnose import condition_of, deleted_outcome, failure_of_pending, outcome_of
from radit_job.jobs import Condition, JobState

RECORDED = json.loads((Path(__file__).parent / "recorded" / "kubernetes-1.35.json").read_text(encoding="utf-8"))
Object = dict[str, Any]


def recorded(case: str) -> tuple[Object, list[Object], list[Object]]:
    found = copy.deepcopy(RECORDED[case])
    return found["job"], found["pods"], found["events"]


def error_of(job: Object, pods: list[Object]) -> tuple[str, str, int | None]:
    """(class, whole message, exit code) as the controller raises and reports it."""
    outcome = outcome_of(job, pods)
    assert outcome is not None
    assert outcome.state == JobState.FAILED
    assert outcome.error is not None
    return outcome.error["type"], str(error_from_json(outcome.error)), outcome.exit_code


def pod_of(case: str, **status: Any) -> Object:
    """A recorded pod with another status."""
    _, (pod, *_), _ = recorded(case)
    return {**pod, "status": {**pod["status"], **status}}


def ended(code: int, **more: Any) -> list[Object]:
    state = {"terminated": {"exitCode": code, "reason": "Error", "finishedAt": "2026-11-21T13:40:00Z", **more}}
    return [{"name": "stage", "image": "radit-job:latest", "state": state}]


@pytest.mark.parametrize(
    ("case", "kind", "message", "exit_code"),
    [
        ("input_error_told", "InputError", "paper.pdf: page 3 holds no text\n  Drop it.", 65),
        (
            "out_of_memory",
            "StageFailed",
            "split: ran out of memory: it may take 103Mi\n"
            "  Raise kubernetes.profiles.p.memory_gib, or lower the stage's batch size.",
            137,
        ),
        (
            "shards_out_of_memory",
            "StageFailed",
            "answer: ran out of memory: it may take 103Mi (shard 0; 3 of 3 shards failed: 0, 1, 2; the others were "
            "stopped)\n  Raise kubernetes.profiles.p.memory_gib, or lower the stage's batch size.",
            137,
        ),
        (
            "tried_twice",
            "TryAgainError",
            "split: ended with exit code 75: it could not be done at the time; its last line: boom: no disk (tried 2 "
            "times)\n  Its log: radit logs a split",
            75,
        ),
        (
            "deadline",
            "StageFailed",
            "split: was stopped at its deadline of 4 s\n  Raise kubernetes.stages.split.deadline_s, or give it a "
            "faster profile. Its log: radit logs a split",
            None,
        ),
        (
            "input_error_in_a_shard",
            "InputError",
            "answer: ended with exit code 65: its input cannot be used; its last line: bad (shard 2; 3 done)\n"
            "  Its log: radit logs a answer",
            65,
        ),
        (
            "configuration_error_in_a_shard",
            "ConfigError",
            "answer: ended with exit code 64: its configuration is wrong (shard 0)\n  Its log: radit logs a answer",
            64,
        ),
        (
            "too_many_shards_failed",
            "StageFailed",
            "answer: ended with exit code 1 (shard 0; 3 of 4 shards failed: 0, 1, 2; the others were stopped)\n"
            "  Its log: radit logs a answer",
            1,
        ),
        (
            "evicted",
            "StageFailed",
            'split: its pod was evicted: Usage of EmptyDir volume "tmp" exceeds the limit "103Mi"\n'
            "  Raise kubernetes.profiles.p.ephemeral_storage_gib: it wrote more than that.",
            137,
        ),
        (
            "no_such_program",
            "ConfigError",
            "split: its container could not start: failed to create containerd task: failed to create shim task: OCI "
            'runtime create failed: runc create failed: unable to start container process: exec: "/absent": stat '
            "/absent: no such file or directory: unknown\n  The image must hold the program `radit`: see "
            "kubernetes.image and kubernetes.profiles.p.image.",
            128,
        ),
        (
            "other_exit_code",
            "StageFailed",
            "split: ended with exit code 2; its last line: /bin/sh: 1: kill: Illegal number: $\n"
            "  Its log: radit logs a split",
            2,
        ),
    ],
)
def test_a_failed_job_says_why_and_what_to_do(case: str, kind: str, message: str, exit_code: int | None) -> None:
    job, pods, _ = recorded(case)
    assert error_of(job, pods) == (kind, message, exit_code)


def test_a_complete_job_succeeded() -> None:
    job, pods, _ = recorded("complete")
    outcome = outcome_of(job, pods)
    assert outcome is not None
    assert (outcome.state, outcome.exit_code, outcome.error) == (JobState.SUCCEEDED, 0, None)


@pytest.mark.parametrize(
    "case", ["running", "shards_running", "a_shard_is_tried_again", "quota", "suspended", "no_gpu"]
)
def test_a_job_without_a_last_condition_has_not_ended(case: str) -> None:
    job, pods, _ = recorded(case)
    assert outcome_of(job, pods) is None


@pytest.mark.parametrize(
    ("case", "says"), [("deadline", "failed; its pods are being stopped"), ("complete", "done; its pods are ending")]
)
def test_a_job_whose_end_is_decided_has_not_ended_before_its_pods(case: str, says: str) -> None:
    job, pods, _ = recorded(case)
    job["status"]["conditions"] = job["status"]["conditions"][:1]  # FailureTarget, SuccessCriteriaMet
    assert outcome_of(job, pods) is None
    assert condition_of(job, pods, []).says == says


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (
            {"containerStatuses": ended(137)},
            "StageFailed",
            "was killed (signal 9), and the cluster does not say why\n  Most often it is memory all the same: raise "
            "kubernetes.profiles.p.memory_gib. Its log: radit logs a split",
        ),
        ({"containerStatuses": ended(139)}, "StageFailed", "crashed: a segmentation fault (signal 11)\n"),
        ({"containerStatuses": ended(143)}, "StageFailed", "was told to stop (SIGTERM): its pod was deleted, or "),
        ({"containerStatuses": ended(69)}, "ServiceError", "ended with exit code 69: a service did not answer\n"),
        (
            {"containerStatuses": ended(137, reason="ContainerStatusUnknown", message="")},
            "StageFailed",
            "its node was lost\n  Run again.",
        ),
        (
            {
                "reason": "Evicted",
                "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 85Mi. ",
                "containerStatuses": ended(137),
            },
            "StageFailed",
            "its pod was evicted: The node was low on resource: memory. Threshold quantity: 100Mi, available: 85Mi\n"
            "  Raise kubernetes.profiles.p.memory_gib, so that the node keeps as much for it.",
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage. "},
            "StageFailed",
            "its pod was evicted: The node was low on resource: ephemeral-storage\n"
            "  Raise kubernetes.profiles.p.ephemeral_storage_gib: ",
        ),
        (
            {"reason": "Evicted", "message": 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". '},
            "StageFailed",
            'its pod was evicted: Usage of EmptyDir volume "shm" exceeds the limit "1Gi"\n'
            "  Raise kubernetes.profiles.p.shared_memory_gib.",
        ),
        (
            {
                "containerStatuses": ended(137),
                "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}],
            },
            "StageFailed",
            "its pod was taken away: it made room for a pod of a higher priority\n  Run again; "
            "kubernetes.profiles.p.priority_class protects from it.",
        ),
        (
            {
                "containerStatuses": [],
                "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}],
            },
            "StageFailed",
            "its pod was taken away: its node is gone\n",
        ),
        (
            {
                "reason": "UnexpectedAdmissionError",
                "message": "Allocate failed due to no healthy devices present",
                "containerStatuses": [],
            },
            "StageFailed",
            "its node refused the pod: UnexpectedAdmissionError: Allocate failed due to no healthy devices present\n",
        ),
        ({"containerStatuses": []}, "StageFailed", "its pod failed, and does not say why\n"),
    ],
)
def test_ends_that_were_not_recorded(status: Object, kind: str, message: str) -> None:
    job, _, _ = recorded("other_exit_code")
    found, text, _ = error_of(job, [pod_of("other_exit_code", **status)])
    assert found == kind
    assert text.startswith(f"split: {message}")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            '{"type": "ConfigError", "what": "k is 0", "where": "x.yaml:3", "todo": "Raise it."}',
            "x.yaml:3: k is 0\n  Raise",
        ),
        (
            '{"event": "log"}\n{"event": "error", "type": "ConfigError", "what": "k is 0", "where": null}\n',
            "split: k is 0",
        ),
        (
            '{"type": "ConfigError", "what": "a long story about \\"k\\" that was cut off\\',
            'split: a long story about "k" ',
        ),
        ('{"type": "Unheard", "what": "boom"}', "split: boom"),
        ("Traceback\n  File\nValueError: 3\n", "split: ended with exit code 1; its last line: ValueError: 3"),
        ('{"other": 1}', 'split: ended with exit code 1; its last line: {"other": 1}'),
        ("[]", "split: ended with exit code 1; its last line: []"),
        ("x" * 4096, "split: ended with exit code 1; its last line: ...xxx"),
    ],
)
def test_a_stages_own_last_words_are_what_is_said(message: str, expected: str) -> None:
    job, _, _ = recorded("other_exit_code")
    kind, text, exit_code = error_of(job, [pod_of("other_exit_code", containerStatuses=ended(1, message=message))])
    assert text.startswith(expected)
    assert len(text) < 500
    assert kind == ("ConfigError" if "ConfigError" in message else "StageFailed")
    assert exit_code == 1


def test_the_newest_failure_speaks_and_pods_that_were_stopped_do_not() -> None:
    job, pods, _ = recorded("tried_twice")
    old, new, stopped, disrupted = (copy.deepcopy(pods[0]) for _ in range(4))
    old["status"]["containerStatuses"] = ended(1, message="first", finishedAt="2026-11-21T13:00:00Z")
    new["status"]["containerStatuses"] = ended(1, message="second", finishedAt="2026-11-21T13:01:00Z")
    stopped["status"]["containerStatuses"] = ended(143, message="third", finishedAt="2026-11-21T13:02:00Z")
    stopped["metadata"]["deletionTimestamp"] = "2026-11-21T13:01:30Z"
    disrupted["status"]["containerStatuses"] = ended(143, message="fourth", finishedAt="2026-11-21T13:03:00Z")
    disrupted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    for order in ([old, new, stopped, disrupted], [disrupted, stopped, new, old]):
        assert "its last line: second" in error_of(job, order)[1]


def test_the_pod_that_the_job_failed_of_is_named_by_it() -> None:
    job, pods, _ = recorded("configuration_error_in_a_shard")
    other = copy.deepcopy(pods[0])
    other["metadata"]["name"] = "radit-answer-2e2e2e2e2e-1-later"
    other["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = "1"
    other["status"]["containerStatuses"] = ended(143, finishedAt="2026-11-21T23:00:00Z")
    assert error_of(job, [other, *pods])[::2] == ("ConfigError", 64)


def test_pods_that_are_gone_leave_the_jobs_own_word() -> None:
    job, _, _ = recorded("input_error_told")
    kind, text, exit_code = error_of(job, [])
    assert (kind, exit_code) == ("InputError", 65)
    assert text.startswith("split: ended with exit code 65: its input cannot be used\n")
    job, _, _ = recorded("tried_twice")
    kind, text, exit_code = error_of(job, [])
    assert (kind, exit_code) == ("StageFailed", None)
    assert text.startswith(
        "split: failed: Job has reached the specified backoff limit; its pods are gone (tried 2 times)"
    )


def test_many_failed_shards_are_counted_and_some_named() -> None:
    job, pods, _ = recorded("too_many_shards_failed")
    job["spec"]["completions"] = 1000
    job["status"] |= {"failedIndexes": "3,7-12,40", "succeeded": 900}
    text = error_of(job, pods)[1]
    assert "8 of 1000 shards failed: 3, 7, 8, 9, 10, ...; the others were stopped; 900 done)" in text


def test_a_job_that_is_gone_failed() -> None:
    outcome = deleted_outcome("index")
    assert outcome.state == JobState.FAILED
    assert outcome.error is not None
    assert str(error_from_json(outcome.error)).startswith("index: its Job was deleted before it was done\n  Run again")


PENDING = [
    (
        "no_gpu",
        "ConfigError",
        "no node takes it: 1 of 1 lacks nvidia.com/gpu (asks for 1)",
        "Lower kubernetes.profiles.p.gpus, or add nodes that have it.",
    ),
    (
        "too_much_memory",
        "ConfigError",
        "no node takes it: 1 of 1 lacks memory (asks for 200Gi)",
        "Lower kubernetes.profiles.p.memory_gib, or add nodes that have it.",
    ),
    (
        "no_label",
        "ConfigError",
        "no node takes it: 1 of 1 lacks the label zone=mars",
        "Correct kubernetes.profiles.p.node_selector.",
    ),
    (
        "no_claim",
        "ConfigError",
        "there is no PersistentVolumeClaim absent",
        "Create it, or correct kubernetes.profiles.p.model_cache.claim.",
    ),
    (
        "no_registry",
        "ServiceError",
        "the image registry.invalid/none:1 cannot be pulled: dial tcp: lookup registry.invalid on 10.96.0.10:53: no "
        "such host",
        "Correct kubernetes.image or kubernetes.profiles.p.image, if it is not the network.",
    ),
    (
        "never_pulled",
        "ConfigError",
        "the image localhost/absent:1 is not on the node, and must not be pulled",
        "Load it (`kind load docker-image`), set kubernetes.image_pull_policy, or correct kubernetes.image or "
        "kubernetes.profiles.p.image.",
    ),
    (
        "invalid_image",
        "ConfigError",
        '\'a..b//c\' is no image: Failed to apply default image tag "a..b//c": couldn\'t parse image name "a..b//c": '
        "invalid reference format",
        "Correct kubernetes.image or kubernetes.profiles.p.image.",
    ),
    (
        "no_secret",
        "ConfigError",
        'its container cannot be set up: secret "absent" not found',
        "Create it in the stage's namespace, or correct kubernetes.env_from and kubernetes.profiles.p.env_from.",
    ),
    (
        "no_service_account",
        "ConfigError",
        "there is no service account absent",
        "Create it, or correct kubernetes.service_account and kubernetes.profiles.p.service_account.",
    ),
    (
        "pod_security",
        "ConfigError",
        'its pod is refused: violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)',
        "Look at kubernetes.profiles.p.pod_template and kubernetes.profiles.p.model_cache: the rest keeps to "
        "`restricted`.",
    ),
    (
        "quota",
        "TryAgainError",
        "the quota 'full' is used up: requests.memory=103Mi asked, requests.memory=0 used, "
        "requests.memory=10Mi allowed",
        "It starts when others end; or ask for less, or for more quota.",
    ),
]


@pytest.mark.parametrize(("case", "kind", "says", "todo"), PENDING, ids=[case[0] for case in PENDING])
def test_a_stage_that_cannot_start_says_what_is_in_its_way(case: str, kind: str, says: str, todo: str) -> None:
    job, pods, events = recorded(case)
    assert condition_of(job, pods, events) == Condition("pending", says)
    error = failure_of_pending(job, pods, events, 900.4)
    assert type(error).__name__ == kind
    assert str(error) == f"split: did not start within 900 s: {says}\n  {todo}"


def test_a_job_in_a_queue_is_queued() -> None:
    job, pods, events = recorded("suspended")
    assert condition_of(job, pods, events) == Condition("queued", "waits in the queue research")
    del job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert condition_of(job, pods, events) == Condition("queued", "suspended")


HOPELESS = "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
FULL = (
    "no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 "
    "No preemption victims found for incoming pod."
)


@pytest.mark.parametrize(
    ("message", "kind", "says", "todo"),
    [
        (
            "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 "
            f"Insufficient cpu. {FULL}",
            "TryAgainError",
            "1 of 3 has the taint node-role.kubernetes.io/control-plane, 2 of 3 have no cpu left (asks for 100m)",
            "Name it in kubernetes.profiles.p.tolerations (kubectl describe nodes shows taints). Wait for others to "
            "end, or lower kubernetes.profiles.p.cpu.",
        ),
        (
            f"0/3 nodes are available: 3 node(s) had untolerated taint(s). no new claims to deallocate, {HOPELESS}",
            "ConfigError",
            "3 of 3 have a taint that it does not accept",
            "Name it in kubernetes.profiles.p.tolerations (kubectl describe nodes shows taints).",
        ),
        (
            f"0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient ephemeral-storage. {HOPELESS}",
            "ConfigError",
            "1 of 3 has been cordoned, 2 of 3 lack ephemeral-storage (asks for 103Mi)",
            "kubectl uncordon ends that. Lower kubernetes.profiles.p.ephemeral_storage_gib, or add nodes that have it.",
        ),
        (
            f"0/3 nodes are available: 3 node(s) had volume node affinity conflict. {HOPELESS}",
            "ConfigError",
            "3 of 3 had volume node affinity conflict",
            "kubectl describe pod tells more.",
        ),
        (
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. " + HOPELESS,
            "TryAgainError",
            "pod has unbound immediate PersistentVolumeClaims",
            "kubectl describe pod tells more.",
        ),
        (
            "no nodes available to schedule pods",
            "TryAgainError",
            "no nodes available to schedule pods",
            "kubectl describe",
        ),
    ],
)
def test_the_schedulers_sum_is_taken_apart(message: str, kind: str, says: str, todo: str) -> None:
    job, _, _ = recorded("no_gpu")
    pod = pod_of(
        "no_gpu",
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
    )
    assert condition_of(job, [pod], []).says == f"no node takes it: {says}"
    error = failure_of_pending(job, [pod], [], 60)
    assert type(error).__name__ == kind
    assert error.todo is not None
    assert error.todo.startswith(todo)


NOT_FOUND = (
    'rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/library/x:1": failed to resolve '
    'reference "docker.io/library/x:1": docker.io/library/x:1: not found'
)


@pytest.mark.parametrize(
    ("waiting", "told", "kind", "says"),
    [
        (("ErrImagePull", NOT_FOUND), "", "ConfigError", "docker.io/library/x:1: not found"),
        (
            ("ImagePullBackOff", 'Back-off pulling image "x:1"'),
            NOT_FOUND,
            "ConfigError",
            "docker.io/library/x:1: not found",
        ),
        (
            ("ImagePullBackOff", f'Back-off pulling image "x:1": ErrImagePull: {NOT_FOUND}'),
            "",
            "ConfigError",
            "not found",
        ),
        (
            ("ErrImagePull", "pull access denied, repository does not exist or may require authorization"),
            "",
            "ConfigError",
            "may require authorization",
        ),
        (("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout"), "", "ServiceError", "i/o timeout"),
        (
            ("CreateContainerConfigError", "couldn't find key token in Secret ns/hf"),
            "",
            "ConfigError",
            "find key token",
        ),
        (
            ("CreateContainerError", "context deadline exceeded"),
            "",
            "ConfigError",
            "cannot be created: context deadline",
        ),
        (("RunContainerError", ""), "", "ConfigError", "cannot be created: RunContainerError"),
    ],
)
def test_a_container_that_waits_says_for_what(waiting: tuple[str, str], told: str, kind: str, says: str) -> None:
    job, (pod, *_), _ = recorded("no_registry")
    state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    pod["status"]["containerStatuses"] = [{"name": "stage", "image": "x:1", "state": state}]
    event = {
        "involvedObject": {"kind": "Pod", "uid": pod["metadata"]["uid"]},
        "reason": "Failed",
        "message": f'Failed to pull image "x:1": {told}',
    }
    error = failure_of_pending(job, [pod], [event] if told else [], 60)
    assert type(error).__name__ == kind
    assert says in error.what
    assert error.todo


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([], "its container is being created"),
        ([("Pulling", 'Pulling image "registry.invalid/none:1"')], "pulls the image registry.invalid/none:1"),
        ([("Pulling", "..."), ("Pulled", "Successfully pulled")], "its container is being created"),
        (
            [("FailedMount", 'MountVolume.SetUp failed for volume "models" : timed out')],
            'a volume cannot be mounted: MountVolume.SetUp failed for volume "models" : timed out',
        ),
        ([("FailedCreatePodSandBox", "no CNI")], "its node cannot start it: no CNI"),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_container_in_the_making_says_how_far_it_is(
    events: list[tuple[str, str]], says: str, is_reversed: bool
) -> None:
    job, (pod, *_), _ = recorded("no_registry")
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ContainerCreating"}}
    told = [
        {
            "involvedObject": {"uid": pod["metadata"]["uid"]},
            "reason": reason,
            "message": message,
            "lastTimestamp": f"2026-11-21T13:00:0{number}Z",
        }
        for number, (reason, message) in enumerate(events)
    ]
    assert condition_of(job, [pod], told[::-1] if is_reversed else told) == Condition("pending", says)


def test_running_shards_are_counted() -> None:
    assert condition_of(*recorded("running")) == Condition("running")
    assert condition_of(*recorded("shards_running")) == Condition(
        "running", "0 of 3 shards done; 3 running", n_shards=3
    )
    assert condition_of(*recorded("a_shard_is_tried_again")) == Condition(
        "running",
        "1 of 3 shards done; 1 running; 1 waiting: waits for its pod to be created; 2 tries failed",
        n_shards_done=1,
        n_shards=3,
        n_retries=2,
    )


def test_shards_that_wait_beside_others_that_run_say_why() -> None:
    job, pods, _ = recorded("shards_running")
    _, (waiting, *_), _ = recorded("no_gpu")
    assert condition_of(job, [*pods[:2], waiting], []).says == (
        "0 of 3 shards done; 2 running; 1 waiting: no node takes it: 1 of 1 lacks nvidia.com/gpu (asks for 1)"
    )
    _, _, events = recorded("quota")
    says = condition_of(job, pods[:2], events).says
    assert says.startswith("0 of 3 shards done; 2 running; 1 waiting: the quota 'full' is used up: ")


def test_a_refusal_that_is_over_is_not_told() -> None:
    job, pods, _ = recorded("running")
    _, _, refused = recorded("quota")
    pods[0]["status"] |= {"phase": "Pending", "containerStatuses": []}
    assert "quota" not in condition_of(job, pods, refused).says


@pytest.mark.parametrize("case", sorted(RECORDED))
def test_what_the_api_has_not_said_yet_breaks_nothing(case: str) -> None:
    job, pods, events = recorded(case)
    job.pop("status")
    for pod in pods:
        pod["status"] = {"phase": "Pending"}
    assert outcome_of(job, pods) is None
    assert condition_of(job, pods, events).phase in ("pending", "queued")
    assert condition_of(job, [], []).phase in ("pending", "queued")
    assert str(failure_of_pending(job, pods, [], 1))
