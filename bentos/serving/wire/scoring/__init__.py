"""MLflow's scoring protocol: JSON, CSV and NumPy's arrays."""
