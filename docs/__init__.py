"""The pages, and what makes them: figures and the site."""
