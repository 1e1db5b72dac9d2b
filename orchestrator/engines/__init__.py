"""How a process is isolated. One small module an engine; the registry is a literal dict."""
