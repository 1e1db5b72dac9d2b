"""Bytes that StreamingLLM holds, before it runs."""


def estimate(config, tokens, params, dtype_bytes):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kept = params["tokens"] if params.get("tokens") else int((params.get("keep") or 0) * tokens)
    return 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * head_dim * min(max(kept, 1), tokens) * dtype_bytes
