"""The data plane: one module a verb, run as ``python -m airflow_ml_provider.steps VERB --spec URI``.

Nothing in here imports Airflow.
"""
