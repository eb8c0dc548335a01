"""The command line: a verb is what it reads from the shell and what it prints."""
