# The MLflow server of helm/airflow-ml, with users, PostgreSQL and S3. Build it with docker/build.sh.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /src
COPY docker/install.sh docker/mlflow-requirements.lock docker/
RUN --mount=type=cache,target=/root/.cache/uv \
    sh docker/install.sh /opt/venv docker/mlflow-requirements.lock

FROM ${PYTHON_IMAGE}
RUN useradd --uid 50000 --gid 0 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mlflow
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    TMPDIR=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true
USER 50000:0
WORKDIR /tmp
EXPOSE 5000
ARG COMMIT=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="airflow-ml-mlflow" \
    org.opencontainers.image.description="MLflow tracking server and registry for airflow-ml-provider" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["mlflow"]
CMD ["server", "--help"]
