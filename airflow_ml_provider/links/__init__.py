"""Buttons on a task's page in the Airflow UI."""
