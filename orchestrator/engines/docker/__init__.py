"""The docker engine: one hardened container a job, from images named by their content, through the Docker SDK."""
