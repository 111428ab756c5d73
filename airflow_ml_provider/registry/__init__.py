"""What MLflow does not remember of a model: who moved an alias, when, why, and what it replaced.

Used by both planes, so it needs no more than a store.
"""
