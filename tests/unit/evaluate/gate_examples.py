"""Gates that the documentation shows."""

from airflow_ml_provider import Gate

GATES = [
    # Good enough at all.
    Gate("roc_auc", at_least=0.60),
    # Shown to be better than the champion; better_by_at_least=0.01 asks for more.
    Gate("average_precision", better_by_at_least=0),
    # Shown not to be worse than the champion by more than 0.005.
    Gate("roc_auc", worse_by_at_most=0.005),
    # For small groups: fails only where a carrier is shown to be worse off by more than 0.02.
    Gate("roc_auc", harm_limit=0.02, slice_by="carrier", minimum_rows=200, minimum_positives=20),
    # Groups by a function of the rows, at a confidence of 90 %.
    Gate("brier_score", worse_by_at_most=0.01, slice_by="flights.slices:haul", confidence=0.9),
    # Guardrails.
    Gate("calibration_error", at_most=0.2),
    Gate("milliseconds_per_1000_rows", at_most=5_000),
    Gate("model_megabytes", at_most=50),
]
