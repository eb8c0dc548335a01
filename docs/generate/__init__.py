"""The site's pages: those of the repository with their links turned, and those that are read from the code.

`make site` runs `python -m docs.generate DIRECTORY`, then maths.py, then the site's builder (zensical.toml).
"""
