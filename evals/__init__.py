"""One folder an evaluation: it builds requests, keeps the references, and scores texts. Never sees a model."""
