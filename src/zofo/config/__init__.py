"""How settings are read: layers, checks, the registry. What is set belongs to the part that it sets."""
