"""Meta-testing: how well a model takes to new tasks, from a few examples of each (MetaICL's protocol)."""
