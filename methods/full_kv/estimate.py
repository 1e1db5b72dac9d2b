def estimate(config, tokens, params, dtype_bytes):
    h=config["num_attention_heads"]
    return 2*config["num_hidden_layers"]*config.get("num_key_value_heads",h)*(config.get("head_dim") or config["hidden_size"]//h)*tokens*dtype_bytes
