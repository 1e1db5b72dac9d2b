"""The host side of longctx: reads manifests, plans, places and watches jobs, scores and reports. Never imports torch or a method."""
