"""From what a person wrote to a checked, expanded selection: ``load.load_manifest`` reads and checks, ``expand.expand`` makes the cells."""
