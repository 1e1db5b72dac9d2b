"""Every file that crosses a process boundary, as frozen typed models.

One module a document. The JSON schemas in ``orchestrator/schemas`` are generated from these models (``longctx schema --write``) and
a test fails when they drift; golden examples live in ``tests/golden``. The runner, which may import nothing, writes plain
dictionaries that these models must accept.
"""
