"""What both planes agree on: the documents they exchange and the names a DAG author uses.

Nothing in here imports Airflow, MLflow or a dataframe library, and nothing does I/O when imported.
"""
