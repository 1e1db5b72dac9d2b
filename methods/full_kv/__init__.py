"""Full KV: keep everything the model's own cache keeps."""
