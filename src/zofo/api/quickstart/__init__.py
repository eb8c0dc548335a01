"""A real model and real data in one command: fetched as packages, trained, evaluated."""
