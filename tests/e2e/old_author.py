"""An author with an older scikit-learn than the stack's. ``python old_author.py FOLDER`` in an environment of its own.

Saves the model, the rows to score and the author's own answers below FOLDER; it is registered from there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlflow.sklearn
import numpy as np
import pandas as pd
import sklearn
from mlflow.models import infer_signature
from sklearn.ensemble import HistGradientBoostingClassifier

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    frame = pd.DataFrame(np.random.default_rng(7).normal(size=(80, 3)), columns=["a", "b", "c"])
    model = HistGradientBoostingClassifier(max_iter=8).fit(frame, (frame["a"] + frame["b"] > 0).astype(int))
    mlflow.sklearn.save_model(
        model,
        str(folder / "model"),
        serialization_format="cloudpickle",
        signature=infer_signature(frame, model.predict(frame)),
        input_example=frame.head(5),
        pip_requirements=[f"scikit-learn=={sklearn.__version__}", "numpy<2.3", "pandas<3", "cloudpickle"],
    )
    rows = frame.head(24)
    rows.to_csv(folder / "rows.csv", index=False, float_format="%.17g")
    answers = model.predict(rows)
    kept = {
        "dtype": answers.dtype.name,
        "answers": answers.tolist(),
        "probabilities": model.predict_proba(rows).tolist(),
    }
    (folder / "expected.json").write_text(json.dumps(kept))
