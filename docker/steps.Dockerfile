# What a step runs in: Python and the data plane, no Airflow. Build it with docker/build.sh.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN pip install --no-cache-dir hatchling==1.33.0 uv==0.13.8
WORKDIR /src
# Requirements of the user's code, such as "torch xgboost", and which builds of PyTorch: cpu, cu126, ...
ARG EXTRA_REQUIREMENTS=""
ARG ACCELERATOR=cpu
COPY docker/install.sh docker/steps-requirements.lock docker/
COPY pyproject.toml README.md LICENSE ./
COPY airflow_ml_provider airflow_ml_provider
# The words of EXTRA_REQUIREMENTS are arguments of their own.
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/uv \
    hatchling build --target wheel --directory /dist \
    && sh docker/install.sh /opt/venv docker/steps-requirements.lock /dist/*.whl -- ${EXTRA_REQUIREMENTS}

FROM ${PYTHON_IMAGE}
# LightGBM's OpenMP. Debian keeps one version of it for a release, so a pin would only break later builds.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin step
COPY --from=build /opt/venv /opt/venv
# The user's code, importable as it is in there; a folder of the build context.
ARG CODE=docker/code
COPY ${CODE} /opt/code
# The root file system may be read-only: what libraries write goes to /tmp, which a pod mounts as an emptyDir.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    TMPDIR=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    GX_ANALYTICS_ENABLED=false
USER 50000:0
WORKDIR /tmp
ARG COMMIT=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="airflow-ml-steps" \
    org.opencontainers.image.description="Runs one step of an airflow-ml-provider pipeline" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.opencontainers.image.version="${VERSION}"
# KubernetesCompute gives the verb and the spec.
CMD ["python", "-m", "airflow_ml_provider.steps", "--help"]
