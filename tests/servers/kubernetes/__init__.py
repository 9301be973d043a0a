"""A small Kubernetes API server for tests that have no cluster: HTTP outside, real processes inside.

    with KubernetesServer(tmp_path) as server:
        server.url, server.kubeconfig        # of the client under test; server.admin_kubeconfig for the test itself
        server.objects("jobs"), server.objects("pods"), server.object("pods", name), server.create("secrets", {...})

Why it exists: the executor and the controller must be tested against watches that end, conflicts, expired versions,
quotas and evictions in `make test`, where no cluster is. A mock answers what its author expected; this server keeps
the rules of the real one (one resourceVersion over all kinds, history, selectors, preconditions, finalizers, the Job
controller's order of steps, the scheduler's and kubelet's words) and runs each pod's command as a process. The same
scenarios run against a real cluster with `pytest -m cluster`: that shows that this server does not lie.

Settings (attributes):
    images          set of images that can be pulled; None: all. Others: ErrImagePull, then ImagePullBackOff
    on_command      f(argv, env) -> exit code, or (exit code, output), or None for a process: 1,000 shards without forks
    max_running     containers at a time (16); the others stay in ContainerCreating
    host_env        variables of this machine that every container gets; put AWS_… here if they are wanted
    retry_backoff_s 0: a failed pod is replaced at once; a real cluster waits 10 s, doubled each time
    set_time_scale  how long a second of activeDeadlineSeconds and ttlSecondsAfterFinished takes
    bookmark_every_s  60, as in a real cluster

Cluster: add_node(name, labels, capacity, taints), remove_node, set_quota(pods=0), set_quota() to free it, oom(pod),
evict_by_kubelet(pod, message). Faults: fail_next(n, status=429, retry_after=1, verb="list", resource="jobs"),
reset_connections(n), both with takes_effect=True to lose only the answer; slow_next(n, delay_s), drop_watches(),
compact(), stop() and start() (same port, state kept, containers run on meanwhile). Permissions: allow_only(rules of a
Role, cluster_rules=()), allow_all(); requests, verbs_used() -> {(group, resource, verb)}, count(verb, resource).

`radit` as a command becomes this Python's `-m radit_job`; a container without a command has `radit` as entry point.
Not there: volumes and other files of a container (its paths are this machine's; only the termination log is mapped),
init containers, side-cars, restartPolicy OnFailure, a network, strategic merge of lists, server-side apply.
"""

from tests.servers.kubernetes.server import KubernetesServer

__all__ = ["KubernetesServer"]
