# The official Airflow image with the provider: schedules steps as pods. The libraries that work on data are in the
# steps image only, so Airflow's own versions stay as they are. Build it with docker/build.sh.
ARG AIRFLOW_IMAGE=apache/airflow:3.3.2-python3.11
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN pip install --no-cache-dir hatchling==1.33.0
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY airflow_ml_provider airflow_ml_provider
RUN hatchling build --target wheel --directory /dist

FROM ${AIRFLOW_IMAGE}
# The last line proves that it works here: the operators and the compute import.
RUN --mount=type=bind,from=build,source=/dist,target=/tmp/dist \
    --mount=type=bind,source=docker/airflow-requirements.lock,target=/tmp/airflow-requirements.lock \
    pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/airflow-requirements.lock \
    && pip install --no-cache-dir --no-deps /tmp/dist/*.whl \
    && python -c "import airflow_ml_provider.operators, airflow_ml_provider.plugin, airflow_ml_provider.compute.pod_operator"
# DAGs baked in; a folder of the build context. None by default: most deployments use a DAG bundle or git-sync.
ARG DAGS=docker/code
COPY --chown=50000:0 ${DAGS} /opt/airflow/dags
ARG COMMIT=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="airflow-ml" \
    org.opencontainers.image.description="Apache Airflow with airflow-ml-provider" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.opencontainers.image.version="${VERSION}"
USER 50000:0
