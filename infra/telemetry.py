"""The switches that keep every part from phoning home; one source for all processes."""

from __future__ import annotations


def telemetry_off() -> dict[str, str]:
    """Environment variables under which no part reports usage or asks for updates.

    Each is the switch its package reads: Prefect's server (``PREFECT_SERVER_ANALYTICS_ENABLED``) and client
    (``DO_NOT_TRACK`` in 1, true, yes), MLflow (``MLFLOW_DISABLE_TELEMETRY``; of ``DO_NOT_TRACK`` it knows only the word
    true), BentoML (``BENTOML_DO_NOT_TRACK``, the word true), Evidently (``DO_NOT_TRACK`` set to anything,
    ``ITERATIVE_DO_NOT_TRACK`` for the library it reports through, ``EVIDENTLY_DISABLE_TELEMETRY`` for its legacy part),
    Hugging Face's hub client and Ray (optional parts).
    """
    return {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "true",
        "EVIDENTLY_DISABLE_TELEMETRY": "1",
        "ITERATIVE_DO_NOT_TRACK": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
