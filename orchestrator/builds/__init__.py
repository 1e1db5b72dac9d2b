"""Images: what each is made from, how it is named, built, found, listed, removed and exported. The Dockerfile is in ``images/``."""
