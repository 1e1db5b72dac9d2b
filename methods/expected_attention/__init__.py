"""ExpectedAttention: keep what queries still to come are expected to attend to."""
