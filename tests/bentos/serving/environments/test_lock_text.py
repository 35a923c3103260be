"""Locks as text: read, cut and told apart without a resolver."""

from bentos.serving.environments.lock_text import ALONE, lock_digest, marked, packages, python_of, served, without

ENTRY = "numpy==2.4.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
OTHER = "six==1.17.0 \\\n    --hash=sha256:cc\n"


def test_entries_keep_their_hashes() -> None:
    text = f"# a comment\n{ENTRY}{OTHER}"
    assert packages(text) == {"numpy": ENTRY, "six": OTHER}
    assert without(text, {"numpy"}) == OTHER
    assert served(text) == text
    assert served(f"{ALONE}numpy\n{ENTRY}{OTHER}") == OTHER


def test_the_python_of_a_lock_is_in_its_digest() -> None:
    assert python_of(ENTRY, lock_digest("3.12", ENTRY, "hashed")) == "3.12"
    assert python_of(ENTRY + "#", lock_digest("3.12", ENTRY, "hashed")) is None
    assert python_of(ENTRY, lock_digest("3.12", ENTRY, "own")) is None


def test_only_what_shipway_alone_asks_for_is_marked() -> None:
    def lock(via: str) -> str:
        return f"pyarrow==25.0.0 \\\n    --hash=sha256:dd\n    # via {via}\n{OTHER}    # via -r in\n"

    plain = f"pyarrow==25.0.0 \\\n    --hash=sha256:dd\n{OTHER}"
    ours, theirs = {"pyarrow": "Shipway's serving set"}, {"pyarrow==25.0.0": "the model's own pins"}
    assert marked(lock("-r in"), "in", ours) == f"{ALONE}pyarrow\n{plain}"
    assert marked(lock("mlflow, -r in"), "in", ours) == plain
    assert marked(lock("-r in"), "in", theirs) == plain
    assert marked(lock("-r in"), "in", {}) == plain
