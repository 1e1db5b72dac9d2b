"""Where jobs are placed. One small module a backend; the registry is a literal dict."""
