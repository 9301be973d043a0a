#!/bin/sh
# follow.sh KUBECTL...: prints the controller's log until its Job ends, from one pod to the next; 0 if it is complete.
#
#   sh k8s/follow.sh kubectl -n radit
set -eu
job=radit followed='' waits=''
while :; do
  ended=$("$@" get job "$job" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
  pod=$("$@" get pods -l "batch.kubernetes.io/job-name=$job" --sort-by=.metadata.creationTimestamp \
    -o 'jsonpath={.items[-1:].metadata.name}' 2>/dev/null || true)
  if [ -n "$pod" ] && [ "$pod" != "$followed" ]; then
    reason=$("$@" get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].state.waiting.reason}' 2>/dev/null || true)
    if [ -z "$reason" ] && "$@" logs --follow "$pod" 2>/dev/null; then
      followed=$pod
      continue
    fi
    if [ "$reason" != "$waits" ]; then
      waits=$reason
      [ -z "$waits" ] || echo "the controller's pod $pod waits: $waits" >&2
    fi
  fi
  case $ended in
    *Complete*) exit 0 ;;
    *Failed*)
      echo "the controller's Job failed; docs/cluster.md says what each message means" >&2
      exit 1 ;;
  esac
  sleep 1
done
